"""Packed attention against the plain softmax formula; a row's bits depend on its sequence alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from models_in_plain import dnabert_state, plain_attention, plain_slopes
from torch import Tensor

from seqembed.kernels.biased_attention import attend_biased
from seqembed.kernels.names import FUSED, PLAIN
from seqembed.models.encoders.attention import (
    BIASED_QUERIES,
    Attention,
    Biases,
    Packing,
    alibi_biases,
    alibi_slopes,
    attend_by_length,
    attend_fused,
    attend_per_sequence,
    attend_varlen,
    choose_attention,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HEADS, HEAD_DIM = 12, 16
# Equal lengths beside each other and apart, and the edges of chunks.
CHUNK = BIASED_QUERIES
LENGTHS = [300, 300, 2, 1, CHUNK, 2, CHUNK + 1, 300, CHUNK - 1, 2 * CHUNK + 3]
IMPLEMENTATIONS = [attend_per_sequence, attend_by_length]
# For the kernel, which Triton's interpreter is slow at: the edges of its tiles. Last, a spare slot.
TILED_LENGTHS = [1, 2, 33, 32, 64, 65, 130, 17, 0]
# Of ESM-2 with 6, 12, 30, 33 and 36, and 48 layers. No known model has 80, which is padded.
HEAD_DIMS = [16, 24, 32, 64, 80, 128]
DTYPES = [torch.float32, torch.float16]
if DEVICE.type == "cuda":
    DTYPES.append(torch.bfloat16)  # the interpreter's products of bf16 are wrong


def random_qkv(
    lengths: list[int], heads: int = HEADS, head_dim: int = HEAD_DIM
) -> tuple[Tensor, Tensor, Tensor]:
    """As a layer has them: slices of one tensor, each (T, heads, head_dim)."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(sum(lengths), 3, heads, head_dim, generator=generator).unbind(1)
    return q, k, v


def random_biases(longest: int, heads: int = HEADS) -> Biases:
    """Other biases before a token than after it, as T5 has them."""
    generator = torch.Generator().manual_seed(4)
    return Biases(2 * torch.randn(heads, 2 * longest - 1, generator=generator))


def exact_attention(
    qkv: tuple[Tensor, Tensor, Tensor], lengths: list[int], biases: Biases | None
) -> Tensor:
    """The plain softmax formula in float64, sequence by sequence."""
    rows = []
    for q, k, v in zip(*(x.double().split(lengths) for x in qkv), strict=True):
        scores = torch.einsum("ihd,jhd->hij", q, k)
        if biases:
            places = torch.arange(len(q)) - torch.arange(len(q))[:, None] + biases.longest - 1
            scores = scores + biases.by_distance[:, places]
        rows.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), v))
    return torch.cat(rows)


@pytest.mark.parametrize("heads", range(1, 41))
def test_slopes_are_the_papers(heads):
    assert alibi_slopes(heads).tolist() == pytest.approx(plain_slopes(heads), rel=1e-6)


@pytest.mark.parametrize("attend", IMPLEMENTATIONS)
@pytest.mark.parametrize("alibi", [False, True])
def test_attention_is_the_plain_formula(attend, alibi):
    q, k, v = random_qkv(LENGTHS)
    slopes = alibi_slopes(HEADS) if alibi else None
    biases = alibi_biases(alibi_slopes(HEADS), max(LENGTHS)) if alibi else None
    out = attend(q, k, v, Packing.of(LENGTHS), biases)
    assert (out.shape, out.dtype) == (q.shape, q.dtype)
    pieces = (x.split(LENGTHS) for x in (q, k, v))
    expected = [plain_attention(*one, slopes) for one in zip(*pieces, strict=True)]
    torch.testing.assert_close(out, torch.cat(expected), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("attend", IMPLEMENTATIONS)
def test_each_distance_has_a_bias_of_its_own(attend):
    qkv, biases = random_qkv(LENGTHS), random_biases(max(LENGTHS) + 5)
    found = attend(*qkv, Packing.of(LENGTHS), biases)
    expected = exact_attention(qkv, LENGTHS, biases)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attend", IMPLEMENTATIONS)
@pytest.mark.parametrize("alibi", [False, True])
def test_a_rows_bits_are_of_its_own_sequence(attend, alibi):
    assert_bits_of_own_sequence(attend, random_qkv(LENGTHS), LENGTHS, 5000, alibi)


def assert_bits_of_own_sequence(
    attend: Attention,
    qkv: tuple[Tensor, Tensor, Tensor],
    lengths: list[int],
    more: int,
    alibi: bool,
) -> None:
    """Whether the others of a batch are there, or the biases of longer ones, changes no bit."""

    def run(rows: slice, own: list[int], longest: int) -> Tensor:
        slopes = alibi_slopes(qkv[0].shape[1]).to(qkv[0].device)
        biases = alibi_biases(slopes, longest) if alibi else None
        return attend(*(x[rows] for x in qkv), Packing.of(own).to(qkv[0].device), biases)

    packing = Packing.of(lengths)
    together = run(slice(None), lengths, max(lengths))
    assert torch.equal(run(slice(None), lengths, more), together)
    for start, stop in pairwise(packing.bounds):
        own = [stop - start]
        assert torch.equal(run(slice(start, stop), own, *own), together[start:stop]), own


def packing_on_device(lengths: list[int]) -> Packing:
    return Packing.of(lengths).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_the_kernel_computes_the_plain_formula(head_dim, biased, dtype):
    qkv = random_qkv(TILED_LENGTHS, 2, head_dim)
    q, k, v = (qkv[0] * head_dim**-0.5).to(dtype), qkv[1].to(dtype), qkv[2].to(dtype)
    biases = random_biases(max(TILED_LENGTHS) + 3, 2) if biased else None
    packed = torch.stack([q, k, v], 1).to(DEVICE).unbind(1)
    moved = Biases(biases.by_distance.to(DEVICE)) if biases else None
    found = attend_fused(*packed, packing_on_device(TILED_LENGTHS), moved)
    expected = exact_attention((q, k, v), TILED_LENGTHS, biases)
    # Half-precision weights and rows are rounded; sums are not.
    bound = 2e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert found.dtype == dtype
    torch.testing.assert_close(found.cpu().double(), expected, atol=bound, rtol=bound)


@pytest.mark.parametrize("alibi", [False, True])
def test_the_kernels_bits_are_of_its_own_sequence(alibi):
    lengths = [length for length in TILED_LENGTHS if length]
    qkv = random_qkv(lengths, 2)
    packed = torch.stack(qkv, 1).to(DEVICE).unbind(1)
    assert_bits_of_own_sequence(attend_fused, packed, lengths, 500, alibi)


def test_the_kernel_adds_distant_biases_in_single_precision():
    """In fp16, -1,400 and -1,400.5 would be one number."""
    length, far = 9, -1400.0
    qkv = torch.zeros(length, 3, 1, 16, dtype=torch.float16, device=DEVICE)
    qkv[:, 2, 0, 0] = torch.arange(length)
    by_distance = (far - torch.arange(2 * length - 1, device=DEVICE) / 2)[None].float()
    (found, *_) = attend_fused(*qkv.unbind(1), packing_on_device([length]), Biases(by_distance))
    weights = torch.softmax(-torch.arange(length) / 2, 0)
    assert float(found[0, 0]) == pytest.approx(float((weights * torch.arange(length)).sum()), 2e-3)


def test_the_kernel_refuses_values_that_lie_apart():
    q, k, v = torch.zeros(3, 5, 2, 32, device=DEVICE)[..., ::2]
    bounds = torch.tensor([0, 5], dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match="lie together"):
        attend_biased(q, k, v, bounds, 5, None)


@pytest.mark.parametrize(
    "biases",
    [torch.zeros(2, 8), torch.zeros(9, 2).T, torch.zeros(2, 9).half()],
    ids=["short", "apart", "half"],
)
def test_the_kernel_refuses_biases_of_another_form(biases):
    q, k, v = torch.zeros(3, 5, 2, 32, device=DEVICE)
    bounds = torch.tensor([0, 5], dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match="biases must be float32"):
        attend_biased(q, k, v, bounds, 5, biases.to(DEVICE))


def test_strips_are_linear_in_the_longest_sequence():
    assert alibi_biases(alibi_slopes(3), 1).strips.shape == (3, CHUNK, 2 * CHUNK)
    biases = alibi_biases(alibi_slopes(3), CHUNK + 1)
    assert biases.by_distance.shape == (3, 2 * CHUNK + 1)
    assert (biases.strips.shape, biases.strips.dtype) == ((3, CHUNK, 4 * CHUNK), torch.float32)
    assert biases.strips.is_contiguous()


def test_groups_hold_every_row_once():
    packing = Packing.of(LENGTHS)
    assert [length for length, _ in packing.groups] == list(dict.fromkeys(LENGTHS))
    everything = torch.arange(sum(LENGTHS))
    found = torch.cat([everything[rows] for _, rows in packing.groups])
    assert found.sort().values.tolist() == everything.tolist()
    neighbours = Packing.of([7, 7, 7, 3, 3])
    assert [rows for _, rows in neighbours.groups] == [slice(0, 21), slice(21, 27)]


def test_one_place_chooses():
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        half = dtype != torch.float32
        for kernels, with_biases in ((PLAIN, attend_by_length), (FUSED, attend_fused)):
            for head_dim, flash in ((64, True), (12, False), (20, False), (264, False)):
                for biased in (False, True):
                    asked = (dtype, head_dim, biased, kernels)
                    assert choose_attention(cpu, *asked) is attend_per_sequence
                    fits = half and flash and not biased
                    expected = attend_varlen if fits else with_biases
                    assert choose_attention(cuda, *asked) is expected


def test_varlen_refuses_biases():
    with pytest.raises(ValueError, match="no biases"):
        attend_varlen(*random_qkv([3]), Packing.of([3]), alibi_biases(alibi_slopes(HEADS), 3))


def test_weights_of_a_state_are_random_enough():
    """Guards the other tests: their norms are near 1, their matrices are not flat."""
    state = dnabert_state(1, 48, 80)
    assert 0.8 < state["embeddings.LayerNorm.weight"].mean() < 1.2
    assert state["encoder.layer.0.mlp.layernorm.weight"].mean() > 0.8
    assert state["encoder.layer.0.mlp.wo.weight"].std() > 0.1
