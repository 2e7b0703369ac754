"""What only a card shows of the kernels: their compiler, erf, true fp32, one launch's bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import seqembed
from seqembed.kernels import biased_attention
from seqembed.models.architectures import DnabertArchitecture, Esm2Architecture
from seqembed.models.encoders.esm import EsmLayer
from seqembed.models.trial import begin_trial

LIBRARY = str(Path(seqembed.__file__).parent.parent)
DEVICE = torch.device("cuda")

CHOOSE = """
import logging, pathlib, torch
from functools import partial
from seqembed.kernels.choice import choose_kernels
from seqembed.models.architectures import Esm2Architecture
from seqembed.models.trial import begin_trial
device, shape = torch.device("cuda", 0), Esm2Architecture(33, 1280, 20, 5120)
trial = partial(begin_trial, shape, torch.float16, device)
print(choose_kernels(device, pathlib.Path("cache"), logging.getLogger(), trial))
"""
PRODUCT = """
import os, torch
from seqembed.inference.streams import keep_products_equal
keep_products_equal(os.environ)
a, b = (torch.rand(1024, 1024, device="cuda") for _ in range(2))
exact = a.double() @ b.double()
print(((a @ b).double() / exact - 1).abs().max().item())
"""


def run(program, **variables):
    command = [sys.executable, "-c", program]
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environ |= {"PYTHONPATH": os.pathsep.join([LIBRARY, *sys.path])} | variables
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True)


def test_a_card_gets_the_fused_steps(tmp_path):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this CUDA device is older than Ampere: it takes the plain steps")
    ended = run(CHOOSE, TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert ended.stdout == "1\n" and "install a C compiler" not in ended.stderr


def test_without_a_c_compiler_one_line_says_so(tmp_path):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this CUDA device is older than Ampere: it takes the plain steps")
    ended = run(CHOOSE, TRITON_CACHE_DIR=str(tmp_path / "cache"), PATH=str(tmp_path), CC="")
    assert ended.stdout == "plain\n"
    assert ended.stderr.count("\n") == 1 and "install a C compiler" in ended.stderr


@pytest.mark.parametrize(
    "shape",
    [Esm2Architecture(6, 320, 20, 1280), DnabertArchitecture(2, 384, 6, 1536, 30)],
    ids=lambda shape: type(shape).__name__,
)
def test_attention_that_computes_something_else_is_found(shape, monkeypatch):
    """A CPU has no such attention; tests/unit/test_trial.py breaks the other steps."""
    assert begin_trial(shape, torch.float32, DEVICE)() is None
    monkeypatch.setattr(biased_attention, "attend_biased", lambda q, *given: q.clone())
    difference = begin_trial(shape, torch.float32, DEVICE)()
    assert difference is not None and difference.startswith("rows differ by")


@pytest.mark.parametrize("name", ["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE"])
def test_fp32_is_never_tf32(name):
    # TF32 keeps 10 bits of each value, which would give 5e-5; sums in fp32 give about 2e-6.
    assert float(run(PRODUCT, **{name: "1"}).stdout) < 1e-5


def test_gelu_is_by_erf():
    """PyTorch's own epilogue of a product on CUDA is by tanh, 4e-4 off."""
    torch.manual_seed(1)
    layer = EsmLayer(Esm2Architecture(1, 64, 4, 256)).requires_grad_(False)
    x = torch.randn(512, 64) * 2
    hidden = layer.fc1(x).double()
    by_erf, by_tanh = (
        functional.linear(functional.gelu(hidden, approximate=kind), layer.fc2.weight.double())
        for kind in ("none", "tanh")
    )
    found = layer.to(DEVICE).feed_forward(x.to(DEVICE)).double().cpu() - layer.fc2.bias.cpu()
    assert (found - by_erf).abs().max() < 1e-5 < 1e-4 < (found - by_tanh).abs().max()
