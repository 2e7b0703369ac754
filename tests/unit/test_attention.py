"""Packed attention against the plain softmax formula; a row's bits depend on its sequence alone."""

from __future__ import annotations

import pytest
import torch
from models_in_plain import dnabert_state, plain_attention, plain_slopes
from torch import Tensor

from seqembed.models.encoders.attention import (
    CHUNK,
    Packing,
    alibi_slopes,
    alibi_table,
    attend_by_length,
    attend_per_sequence,
    attend_varlen,
    choose_attention,
)

HEADS, HEAD_DIM = 12, 16
# Equal lengths beside each other and apart, and the edges of chunks.
LENGTHS = [300, 300, 2, 1, CHUNK, 2, CHUNK + 1, 300, CHUNK - 1, 2 * CHUNK + 3]
IMPLEMENTATIONS = [attend_per_sequence, attend_by_length]


def random_qkv(lengths: list[int], heads: int = HEADS) -> tuple[Tensor, Tensor, Tensor]:
    """As a layer has them: slices of one tensor, each (T, heads, HEAD_DIM)."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(sum(lengths), 3, heads, HEAD_DIM, generator=generator).unbind(1)
    return q, k, v


@pytest.mark.parametrize("heads", range(1, 41))
def test_slopes_are_the_papers(heads):
    assert alibi_slopes(heads).tolist() == pytest.approx(plain_slopes(heads), rel=1e-6)


@pytest.mark.parametrize("attend", IMPLEMENTATIONS)
@pytest.mark.parametrize("alibi", [False, True])
def test_attention_is_the_plain_formula(attend, alibi):
    q, k, v = random_qkv(LENGTHS)
    slopes = alibi_slopes(HEADS) if alibi else None
    table = alibi_table(alibi_slopes(HEADS), max(LENGTHS), q.dtype) if alibi else None
    out = attend(q, k, v, Packing.of(LENGTHS), table)
    assert (out.shape, out.dtype) == (q.shape, q.dtype)
    pieces = (x.split(LENGTHS) for x in (q, k, v))
    expected = [plain_attention(*one, slopes) for one in zip(*pieces, strict=True)]
    torch.testing.assert_close(out, torch.cat(expected), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("attend", IMPLEMENTATIONS)
@pytest.mark.parametrize("alibi", [False, True])
def test_a_rows_bits_are_of_its_own_sequence(attend, alibi):
    q, k, v = random_qkv(LENGTHS)
    packing = Packing.of(LENGTHS)
    slopes = alibi_slopes(HEADS)

    def table(longest: int) -> Tensor | None:
        return alibi_table(slopes, longest, q.dtype) if alibi else None

    together = attend(q, k, v, packing, table(max(LENGTHS)))
    assert torch.equal(attend(q, k, v, packing, table(5000)), together)
    for start, stop in zip(packing.bounds[:-1], packing.bounds[1:], strict=True):
        own = (x[start:stop] for x in (q, k, v))
        alone = attend(*own, Packing.of([stop - start]), table(stop - start))
        assert torch.equal(alone, together[start:stop]), f"length {stop - start}"


def test_a_table_is_linear_in_the_longest_sequence():
    assert alibi_table(alibi_slopes(3), 1, torch.float32).shape == (3, CHUNK, 2 * CHUNK)
    table = alibi_table(alibi_slopes(3), CHUNK + 1, torch.float16)
    assert (table.shape, table.dtype) == ((3, CHUNK, 4 * CHUNK), torch.float16)


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
        assert choose_attention(cpu, dtype, alibi=False) is attend_per_sequence
        assert choose_attention(cpu, dtype, alibi=True) is attend_per_sequence
        packed = attend_varlen if half else attend_by_length
        assert choose_attention(cuda, dtype, alibi=False) is packed
        assert choose_attention(cuda, dtype, alibi=True) is attend_by_length


def test_varlen_refuses_a_bias():
    q, k, v = random_qkv([3])
    with pytest.raises(ValueError, match="no bias"):
        attend_varlen(q, k, v, Packing.of([3]), alibi_table(alibi_slopes(12), 3, q.dtype))


def test_weights_of_a_state_are_random_enough():
    """Guards the other tests: their norms are near 1, their matrices are not flat."""
    state = dnabert_state(1, 48, 80)
    assert 0.8 < state["embeddings.LayerNorm.weight"].mean() < 1.2
    assert state["encoder.layer.0.mlp.layernorm.weight"].mean() > 0.8
    assert state["encoder.layer.0.mlp.wo.weight"].std() > 0.1
