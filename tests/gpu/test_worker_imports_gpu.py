"""A worker on a card imports no more than one on the CPU, but for what compiles kernels."""

import pytest
from worker_imports import EXAMPLE, embed_example, find_needless


@pytest.mark.parametrize("dataset", EXAMPLE)
def test_a_worker_imports_what_it_needs(dataset, card, tmp_path):
    _, worker = embed_example(tmp_path, dataset, "cuda")
    # Triton, and the modules that it compiles.
    compiling = {"triton", "cuda_utils", "__triton_launcher"}
    assert find_needless(worker, frozenset(compiling)) == []
