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
from torch.torch_version import TorchVersion

from seqembed.kernels import choice, compiler, flash_attention, plain
from seqembed.kernels.choice import choose_kernels, load_steps
from seqembed.kernels.compiler import find_compiler, hash_triton
from seqembed.kernels.flash_attention import attend_packed, find_options
from seqembed.kernels.names import FUSED, PLAIN
from seqembed.models.architectures import block_rows
from seqembed.models.encoders.encoder import in_blocks, in_chunks

CUDA = torch.device("cuda", 0)
LOGGER = logging.getLogger("seqembed.tests")
NO_COMPILER = "Failed to find C compiler. Please specify via CC environment variable.\nSecond line"


@pytest.fixture
def choose(monkeypatch, tmp_path):
    """choose_kernels for a GPU of a capability, where the fused steps differ, or raise an error."""

    def choose(capability=(9, 0), outcome=None, device=CUDA):
        def try_fused():
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        return choose_kernels(device, tmp_path / "cache", LOGGER, lambda: try_fused)

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    return choose


def test_a_cpu_takes_the_plain_steps_without_a_word_and_an_old_gpu_with_one(choose, caplog):
    caplog.set_level(logging.INFO)
    untried = AssertionError("not tried")
    assert choose((9, 0), untried, torch.device("cpu")) == PLAIN
    assert load_steps(PLAIN) is plain and not caplog.records
    assert choose((7, 5), untried) == PLAIN
    (line,) = caplog.records
    assert line.getMessage().startswith("this GPU is older") and line.levelno == logging.INFO


def test_a_gpu_on_which_kernels_run_takes_the_fused_steps(choose, caplog):
    assert choose((8, 0)) == FUSED
    assert not caplog.records


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(NO_COMPILER), "Failed to find C compiler"),
        (subprocess.CalledProcessError(1, ["gcc"]), "gcc"),
        (ModuleNotFoundError("No module named 'triton'"), "No module named 'triton'"),
        (RuntimeError("Triton Error [CUDA]: device kernel image is invalid"), "image is invalid"),
        (PermissionError(13, "Permission denied", "/home/x/.triton"), "/home/x/.triton"),
    ],
)
def test_without_a_compiler_one_line_says_so_and_the_plain_steps_are_taken(
    error, reason, choose, caplog
):
    assert choose(outcome=error) == PLAIN
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("Triton cannot compile kernels here (") and "\n" not in line
    assert reason in line and "install a C compiler" in line


@pytest.mark.parametrize("found", [None, "/usr/bin/gcc"])
def test_without_any_compiler_no_kernel_is_tried(found, choose, monkeypatch, caplog):
    monkeypatch.setattr(compiler.shutil, "which", lambda name: found)
    assert choose(outcome=AssertionError("tried")) == PLAIN
    assert ("there is no C compiler" in caplog.text) == (found is None)


def test_the_compiler_of_the_variable_cc_is_the_one_that_counts(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert find_compiler() is None
    monkeypatch.setenv("CC", sys.executable)
    assert find_compiler() == sys.executable


def test_kernels_that_compute_other_values_are_not_used_and_one_line_says_so(choose, caplog):
    assert choose(outcome="rows differ by 31%") == PLAIN
    (line,) = caplog.messages
    assert (
        "compute other values here than the plain steps" in line and "(rows differ by 31%)" in line
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("lost", 719),
        torch.OutOfMemoryError(),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_a_gpu_that_fails_is_no_reason_for_the_plain_steps(error, choose, caplog):
    with pytest.raises(type(error)):
        choose(outcome=error)
    said = "the GPU failed while Triton's kernels were tried" in caplog.text
    assert said != isinstance(error, torch.OutOfMemoryError)


def test_an_error_of_the_plain_steps_is_not_a_kernels(monkeypatch):
    def fail():
        raise RuntimeError("no product can be computed")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(RuntimeError, match="no product"):
        choose_kernels(CUDA, Path("cache"), LOGGER, fail)


def test_compiled_kernels_are_kept_beside_the_models_if_the_home_cannot_be_written(
    choose, monkeypatch, tmp_path
):
    choose()
    assert "TRITON_CACHE_DIR" not in choice.os.environ
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    choose()
    assert choice.os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "cache")


def test_this_pytorch_has_the_operator_of_flash_attention():
    options = find_options()
    assert options is not None, "PyTorch changed the operator: see kernels/flash_attention.py"
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    assert options == ({"num_splits": 1} if version >= (2, 13) else {})


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


@pytest.mark.parametrize("more", [{}, {"num_splits": 1}])
def test_the_operator_gets_what_keeps_its_sums_in_one_order(more, monkeypatch):
    calls = []

    def operator(*arguments, **options):
        calls.append((len(arguments), options))
        return arguments[0], None

    monkeypatch.setattr(flash_attention, "find_options", lambda: more)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", operator)
    q = torch.zeros(5, 2, 8)
    assert attend_packed(q, q, q, torch.tensor([0, 2, 5]), 3) is q
    assert calls == [(10, {"scale": 1.0} | more)]


def test_an_unknown_operator_gives_way_to_the_public_function(monkeypatch):
    calls = []

    def public(*arguments, scale, num_splits=None):
        calls.append((len(arguments), scale, num_splits))
        return arguments[0]

    monkeypatch.setattr(torch, "__version__", TorchVersion("2.13.0"))

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
    rows = block_rows(640, dtype.itemsize)
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
