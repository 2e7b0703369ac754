import pytest
import torch


@pytest.fixture(autouse=True)
def card():
    """Skip where there is no CUDA; `pytest -ra` prints the reason."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine: the GPU tests did not run")
