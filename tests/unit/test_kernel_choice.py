"""Which steps and which attention operator a device gets; what is fused is in test_kernels."""

from __future__ import annotations

import logging
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.attention import varlen

from seqembed.kernels import choice, compiler, flash_attention, plain
from seqembed.kernels.choice import choose_kernels, load_steps
from seqembed.kernels.compiler import find_compiler, hash_triton
from seqembed.kernels.flash_attention import attend_packed, find_options
from seqembed.kernels.names import FUSED, PLAIN
from seqembed.models.encoders.encoder import block_rows, in_blocks, in_chunks

CUDA = torch.device("cuda", 0)
LOGGER = logging.getLogger("seqembed.tests")
NO_COMPILER = "Failed to find C compiler. Please specify via CC environment variable.\nSecond line"


class Tried:
    """Stands in for the fused steps; `error` is raised as if the first kernel had raised it."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def rotate_(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        if self.error:
            raise self.error
        plain.rotate_(x, cos, sin)


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A GPU of a capability, on which the first kernel raises an error or none."""

    def put(capability: tuple[int, int], error: Exception | None = None) -> None:
        for name in ("zeros", "ones"):
            make = getattr(torch, name)
            monkeypatch.setattr(torch, name, lambda *s, device, make=make: make(*s))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(choice, "load_steps", lambda kernels: Tried(error))

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    return put


def test_a_cpu_and_an_old_gpu_take_the_plain_steps_without_a_word(card, caplog):
    card((7, 5), AssertionError("not tried"))
    assert choose_kernels(torch.device("cpu"), Path("cache"), LOGGER) == PLAIN
    assert choose_kernels(CUDA, Path("cache"), LOGGER) == PLAIN
    assert load_steps(PLAIN) is plain and not caplog.records


def test_a_gpu_on_which_a_kernel_runs_takes_the_fused_steps(card, caplog):
    card((9, 0))
    assert choose_kernels(CUDA, Path("cache"), LOGGER) == FUSED
    assert not caplog.records


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(NO_COMPILER), "Failed to find C compiler"),
        (subprocess.CalledProcessError(1, ["gcc"]), "gcc"),
        (ModuleNotFoundError("No module named 'triton'"), "No module named 'triton'"),
        (PermissionError(13, "Permission denied", "/home/x/.triton"), "/home/x/.triton"),
    ],
)
def test_without_a_compiler_one_line_says_so_and_the_plain_steps_are_taken(
    error, reason, card, caplog
):
    card((9, 0), error)
    assert choose_kernels(CUDA, Path("cache"), LOGGER) == PLAIN
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("Triton cannot compile kernels here (") and "\n" not in line
    assert reason in line and "install a C compiler" in line


@pytest.mark.parametrize("found", [None, "/usr/bin/gcc"])
def test_without_any_compiler_no_kernel_is_tried(found, card, monkeypatch, caplog):
    card((9, 0), AssertionError("tried"))
    monkeypatch.setattr(compiler.shutil, "which", lambda name: found)
    assert choose_kernels(CUDA, Path("cache"), LOGGER) == PLAIN
    assert ("there is no C compiler" in caplog.text) == (found is None)


def test_the_compiler_of_the_variable_cc_is_the_one_that_counts(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert find_compiler() is None
    monkeypatch.setenv("CC", sys.executable)
    assert find_compiler() == sys.executable


def test_a_kernel_that_computes_wrong_values_is_not_used(card, monkeypatch, caplog):
    card((9, 0))
    monkeypatch.setattr(Tried, "rotate_", lambda self, x, cos, sin: None)
    assert choose_kernels(CUDA, Path("cache"), LOGGER) == PLAIN
    assert "wrong values" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("lost", 719),
        torch.OutOfMemoryError(),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_a_gpu_that_fails_is_no_reason_for_the_plain_steps(error, card):
    card((9, 0), error)
    with pytest.raises(type(error)):
        choose_kernels(CUDA, Path("cache"), LOGGER)


def test_compiled_kernels_are_kept_beside_the_models_if_the_home_cannot_be_written(
    card, monkeypatch, tmp_path
):
    card((9, 0))
    choose_kernels(CUDA, tmp_path / "cache", LOGGER)
    assert "TRITON_CACHE_DIR" not in choice.os.environ
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    choose_kernels(CUDA, tmp_path / "cache", LOGGER)
    assert choice.os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "cache")


def test_this_pytorch_has_the_operator_of_flash_attention():
    options = find_options()
    assert options is not None, "PyTorch changed the operator: see kernels/flash_attention.py"
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    assert options == ({"num_splits": 1} if version > (2, 11) else {})


def test_attention_calls_the_operator_and_imports_nothing():
    program = (
        "import sys, torch; from seqembed.kernels.flash_attention import attend_packed\n"
        "q = torch.zeros(5, 2, 8, dtype=torch.float16); before = {*sys.modules}\n"
        "try: attend_packed(q, q, q, torch.tensor([0, 2, 5], dtype=torch.int32), 3)\n"
        "except NotImplementedError as error: assert '_flash_attention_forward' in str(error)\n"
        "else: raise SystemExit('a CPU has no such operator')\n"
        "found = {n.split('.')[0] for n in {*sys.modules} - before} - {'torch'}\n"
        "assert not found and 'torch._dynamo' not in sys.modules, found\n"
    )
    library = str(Path(choice.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": library}, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_an_unknown_operator_gives_way_to_the_public_function(monkeypatch):
    calls = []

    def public(*arguments, scale, num_splits):
        calls.append((len(arguments), scale, num_splits))
        return arguments[0]

    monkeypatch.setattr(flash_attention, "ARGUMENTS", ("query", "other"))
    monkeypatch.setattr(varlen, "varlen_attn", public)
    find_options.cache_clear()
    q = torch.zeros(5, 2, 8)
    assert attend_packed(q, q, q, torch.tensor([0, 2, 5]), 3) is q
    assert calls == [(7, 1.0, 1)]
    find_options.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("apply", [partial(in_blocks, width=640), partial(in_chunks, ffn_width=9)])
def test_products_on_a_device_have_blocks_of_one_size(apply, dtype):
    sizes: list[int] = []
    rows = block_rows(640, dtype)
    for count in (1, 3):
        x = torch.empty(count * rows, 640, dtype=dtype, device="meta")
        assert apply(lambda part: sizes.append(len(part)) or part, x).shape == x.shape
    assert sizes == [rows] * 4


def test_a_cpu_computes_a_product_at_once():
    sizes: list[int] = []
    in_blocks(lambda part: sizes.append(len(part)) or part, torch.empty(9000, 4), 4)
    assert sizes == [9000]


def test_triton_hashes_itself_once_a_process_and_its_lack_is_no_error(monkeypatch):
    from triton.runtime.cache import triton_key

    triton_key.cache_clear()
    hash_triton()
    assert triton_key.cache_info().currsize == 1
    monkeypatch.setitem(sys.modules, "triton.runtime.cache", None)
    hash_triton()
