"""The fused steps against the plain ones: on a GPU, otherwise in Triton's interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import seqembed
from seqembed.kernels import fused, plain
from seqembed.kernels.names import FUSED
from seqembed.models.architectures import (
    AnkhArchitecture,
    DnabertArchitecture,
    Esm1bArchitecture,
    Esm2Architecture,
    EsmcArchitecture,
)
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.dnabert_s import DnabertS
from seqembed.models.encoders.esm1b import Esm1b
from seqembed.models.encoders.esm2 import Esm2
from seqembed.models.encoders.esmc import Esmc
from seqembed.models.encoders.rotary import rotary_tables
from seqembed.models.encoders.t5 import T5

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS = [plain, fused]
DTYPES = [torch.float32, torch.float16]
if DEVICE.type == "cuda":
    DTYPES.append(torch.bfloat16)  # the interpreter cuts bf16 off where a GPU rounds it
# Heads and their width of ESM-2 with 8M, 35M, 150M, 650M, 3B and 15B.
HEADS = [(20, 16), (20, 24), (20, 32), (20, 64), (40, 64), (40, 128)]
LENGTHS = [1, 2, 33, 17]
LIBRARY = Path(seqembed.__file__).parent.parent

# Compiles every kernel for a GPU that is not here.
COMPILE = """
import re
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from seqembed.kernels import fused
from seqembed.kernels.biased_attention import TILES, _attend

SIZES = {"PAIRS": 1280, "HALF": 32, "BLOCK": 2048, "WIDTH": 1280, "EPS": 1e-5}
SIZES |= {"ROWS": 32, "COLUMNS": 64, "CENTRED": True}
TYPES = dict.fromkeys(["cos", "sin", "pooled", "biases"], "*fp32") | {"bounds": "*i32"}
TYPES |= dict.fromkeys(["stride", "out_stride", "longest"], "i32")

def compile(kernel, dtype, constants, wide=(), **options):
    names, kinds = kernel.arg_names, TYPES | dict.fromkeys(wide, "*fp32")
    sizes = {n: v for n, v in (SIZES | constants).items() if n in names}
    types = {n: "constexpr" if n in sizes else kinds.get(n, f"*{dtype}") for n in names}
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    # As at a launch: memory and strides are aligned.
    aligned = [n for n, kind in types.items() if kind[0] == "*" or n.endswith("stride")]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(fn=kernel, signature=types, constexprs=sizes, attrs=attributes)
    compiled = triton.compile(source, target=target, options=options)
    # What a program may have on a GPU of compute capability 8.6 or 8.9.
    assert compiled.metadata.shared <= 101_376
    return compiled.asm

for dtype in ("fp16", "bf16", "fp32"):
    rotated = compile(fused._rotate, dtype, {}, enable_fp_fusion=False)
    assert "fma" not in rotated["ptx"] and len(rotated["cubin"])
    # A norm may have no bias.
    assert all(len(compile(fused._add_norm, dtype, c)["cubin"]) for c in ({}, {"bias": None}))
    # A T5's: between layers, rows are fp32.
    rms = {"CENTRED": False, "bias": None}
    assert len(compile(fused._add_norm, dtype, rms, wide=("x", "total"))["cubin"])
    for largest in (True, False):
        assert len(compile(fused._pool, dtype, {"LARGEST": largest})["cubin"])

# DNABERT-S, Ankh and ProtT5 in all precisions, and ESM-2 in fp32, without biases.
CASES = [(dtype, 2, width, {}) for dtype in ("fp16", "bf16") for width in (64, 128)]
CASES += [("fp32", 4, 64, {}), ("fp32", 4, 128, {}), ("fp32", 4, 32, {"biases": None})]
for dtype, size, width, more in CASES:
    queries, keys, warps, stages = TILES[size][width > 64]
    sizes = {"WIDTH": width, "PADDED": width, "QUERIES": queries, "KEYS": keys} | more
    ptx = compile(_attend, dtype, sizes, num_warps=warps, num_stages=stages)["ptx"]
    # Tensor cores would round fp32 to TF32. Blocks of keys are loaded ahead.
    assert bool(re.search(r"mma|tcgen05", ptx)) == (dtype != "fp32") and "cp.async" in ptx
"""


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(DEVICE, dtype)


def packing_of(lengths: list[int]) -> Packing:
    return Packing.of(lengths).to(DEVICE)


def norm_of(width: int, dtype: torch.dtype, bias: bool = True) -> nn.LayerNorm:
    norm = nn.LayerNorm(width, eps=1e-5, bias=bias).to(DEVICE, dtype).requires_grad_(False)
    nn.init.normal_(norm.weight, 1, 0.2)
    if bias:
        nn.init.normal_(norm.bias, 0, 0.2)
    return norm


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "head_dim"), HEADS)
def test_the_fused_rotation_has_the_bits_of_the_plain_one(heads, head_dim, dtype):
    frequencies = torch.rand(head_dim // 2, device=DEVICE)
    cos, sin = rotary_tables(frequencies, packing_of(LENGTHS))
    qkv = random(sum(LENGTHS), 3, heads, head_dim, dtype=dtype)
    turned, expected = qkv.clone(), qkv.clone()
    plain.rotate_(expected[:, :2], cos, sin)
    fused.rotate_(turned[:, :2], cos, sin)
    assert torch.equal(turned, expected) and not torch.equal(turned, qkv)


def test_rotation_refuses_values_that_lie_apart():
    qkv = random(5, 2, 4, 32, dtype=torch.float32)[..., ::2]
    angles = torch.zeros(5, 1, 1, 8, device=DEVICE)
    with pytest.raises(ValueError, match="lie together"):
        fused.rotate_(qkv, angles, angles)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [320, 480, 1280, 5120])
@pytest.mark.parametrize("steps", STEPS, ids=["plain", "fused"])
def test_the_sum_is_exact_and_its_norm_is_that_of_float64(steps, width, bias, dtype):
    # Far from zero, it shows whether the sum is rounded before its norm.
    offset = 1 if dtype == torch.float32 else 400
    x, branch = (random(2, 11, width, dtype=dtype) * 5 + offset).unbind(0)
    norm, expected = norm_of(width, dtype, bias), x + branch
    total, normed = steps.add_norm(x, branch, norm)
    assert torch.equal(total, expected) and total.data_ptr() == branch.data_ptr()
    exact = norm.double()(expected.double())
    # On a GPU, the square root and the quotients of fp32 are off by a few last bits.
    bound = torch.finfo(dtype).eps * (4 if dtype == torch.float32 else 1)
    torch.testing.assert_close(normed.double(), exact, atol=4 * bound, rtol=bound)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [48, 768, 1024, 2560])
@pytest.mark.parametrize("steps", STEPS, ids=["plain", "fused"])
def test_rows_in_float32_stay_so_and_their_norm_has_the_dtype_of_the_branch(steps, width, dtype):
    x, branch = random(11, width, dtype=torch.float32) * 1e5, random(11, width, dtype=dtype) * 100
    norm = plain.RmsNorm(width, eps=1e-6).to(DEVICE, dtype).requires_grad_(False)
    nn.init.normal_(norm.weight, 1, 0.2)
    expected = x + branch
    total, normed = steps.add_norm(x.clone(), branch.clone(), norm)
    assert torch.equal(total, expected) and total.dtype == torch.float32 and normed.dtype == dtype
    exact = expected.double()
    exact = exact / (exact.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    bound = torch.finfo(dtype).eps * (4 if dtype == torch.float32 else 1)
    torch.testing.assert_close(normed.double(), exact, atol=4 * bound, rtol=bound)


@pytest.mark.parametrize("steps", STEPS, ids=["plain", "fused"])
def test_a_layer_without_a_norm_gives_the_sum(steps):
    x, branch = random(2, 3, 8, dtype=torch.float32).unbind(0)
    expected = x + branch
    assert all(torch.equal(rows, expected) for rows in steps.add_norm(x, branch, nn.Identity()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", STEPS, ids=["plain", "fused"])
def test_each_span_is_pooled_by_itself(steps, dtype):
    rows, spans = random(110, 70, dtype=dtype), [(1, 2), (4, 36), (0, 110), (9, 9 + 65)]
    means, maxima = (steps.pool(rows, spans, largest) for largest in (False, True))
    assert means.dtype == maxima.dtype == torch.float32
    exact = torch.stack([rows[start:stop].double().mean(0) for start, stop in spans])
    torch.testing.assert_close(means.double(), exact, atol=2e-7, rtol=2e-6)
    assert torch.equal(maxima, torch.stack([rows[a:b].float().amax(0) for a, b in spans]))


@pytest.mark.parametrize("steps", STEPS, ids=["plain", "fused"])
def test_half_rows_are_averaged_in_single_precision(steps):
    # Their sum is over fp16's range, and their mean between two of its numbers.
    rows = torch.tensor([2048.0, 2050.0] * 1501, dtype=torch.float16, device=DEVICE)[:, None]
    assert steps.pool(rows, [(1, 3001)], False).tolist() == [[2049.0]]


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("steps", STEPS, ids=["plain", "fused"])
def test_pooled_rows_show_each_value_that_is_not_finite(steps, largest):
    rows = random(40, 3, dtype=torch.float32)
    rows[3, 0], rows[35, 1] = torch.nan, torch.inf
    (pooled,) = steps.pool(rows, [(0, 40)], largest).tolist()
    assert [str(value) for value in pooled[:2]] == ["nan", "inf"] and abs(pooled[2]) < 4
    assert steps.pool(rows, [(4, 35)], largest).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_row_of_a_fused_step_depends_on_another(dtype):
    x, branch = random(2, 50, 480, dtype=dtype).unbind(0)
    norm, own = norm_of(480, dtype), slice(20, 41)
    _, together = fused.add_norm(x, branch.clone(), norm)
    _, alone = fused.add_norm(x[own], branch[own].clone(), norm)
    assert torch.equal(together[own], alone)
    both = fused.pool(x, [(0, 20), (20, 41)], False)
    assert torch.equal(both[1:], fused.pool(x[own], [(0, 21)], False))


@pytest.mark.parametrize(
    ("encoder", "architecture"),
    [
        (Esm2, Esm2Architecture(2, 96, 4, 384)),
        (Esm1b, Esm1bArchitecture(2, 96, 4, 384, embedding_norm=True)),
        (Esmc, EsmcArchitecture(2, 96, 4, 256)),
        (DnabertS, DnabertArchitecture(2, 96, 4, 192, 30)),
        (T5, AnkhArchitecture(2, 96, 4, 160, 16, "gated-gelu", 64, 128, 144)),
    ],
)
def test_an_encoder_gives_the_same_rows_by_either_steps(encoder, architecture):
    torch.manual_seed(2)
    model = encoder(architecture, 2).to(DEVICE).eval().requires_grad_(False)
    tokens, packing = torch.arange(sum(LENGTHS), device=DEVICE) % 30, packing_of(LENGTHS)
    expected = model(tokens, packing)
    model.kernels = FUSED
    torch.testing.assert_close(model(tokens, packing), expected, atol=2e-6, rtol=2e-6)


def test_the_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    """Five processes at once, on one empty cache; a sixth compiles nothing."""
    capabilities = ["80", "89", "90", "100", "90"]
    running = [start_compiling(tmp_path, capability) for capability in capabilities]
    failures = [process.communicate()[0] for process in running if process.wait()]
    assert failures == []
    kept = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*.cubin"))
    assert len(kept) == (6 * 3 + 7) * len(set(capabilities))
    again = start_compiling(tmp_path, "90")
    assert (again.communicate()[0], again.returncode) == ("", 0)
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*.cubin")) == kept


def start_compiling(cache: Path, capability: str) -> subprocess.Popen[str]:
    variables = {"TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", COMPILE, capability],
        env=os.environ | variables | {"PYTHONPATH": os.pathsep.join([str(LIBRARY), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_library_imports_triton_in_three_modules_only():
    importing = [
        path.name
        for path in LIBRARY.rglob("*.py")
        if re.search(r"^\s*(import|from) triton", path.read_text(), re.MULTILINE)
    ]
    assert sorted(importing) == ["biased_attention.py", "compiler.py", "fused.py"]
