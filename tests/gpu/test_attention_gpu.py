"""Attention on a CUDA device against attention one sequence at a time, in fp32, on the CPU."""

import pytest
import torch

from seqembed.environment import EnvConfig
from seqembed.models.encoders.attention import (
    Packing,
    alibi_slopes,
    alibi_table,
    attend_by_length,
    attend_per_sequence,
    attend_varlen,
)
from seqembed.settings.precision import should_use_fp16

HEADS = 12
LENGTHS = [1024, 300, 300, 300, 128, 17, 300, 17, 2, 1]
# Of ESM-2 with 6, 12, 30, 33 and 36, and 48 layers.
HEAD_DIMS = [16, 24, 32, 64, 128]
BIASES = [False, True]


@pytest.fixture(autouse=True)
def device(card):
    return torch.device("cuda")


@pytest.fixture
def half(device):
    if not should_use_fp16(device, EnvConfig.from_environ({})):
        pytest.skip("this CUDA device is older than Ampere: no fp16 attention to test")
    return torch.float16


def random_qkv(head_dim, device, dtype):
    """q, k, v as a layer has them, each (T, heads, head_dim), the query scaled."""
    generator = torch.Generator().manual_seed(head_dim)
    shape = (sum(LENGTHS), 3, HEADS, head_dim)
    packed = torch.randn(shape, generator=generator)
    packed[:, 0] *= head_dim**-0.5
    return packed.to(device, dtype).unbind(1)


def packing_on(device, lengths):
    packing = Packing.of(lengths)
    return Packing(packing.bounds, packing.cu_seqlens.to(device))


def table_of(qkv, longest, alibi):
    q = qkv[0]
    return alibi_table(alibi_slopes(HEADS).to(q.device), longest, q.dtype) if alibi else None


def check_rows(attend, qkv, alibi):
    table = table_of(qkv, max(LENGTHS), alibi)
    out = attend(*qkv, packing_on(qkv[0].device, LENGTHS), table)
    # Rounded as the device has it: only the sums are in question here.
    exact = [x.float().cpu() for x in (*qkv, table) if x is not None]
    expected = attend_per_sequence(*exact[:3], Packing.of(LENGTHS), *exact[3:])
    bound = 2e-3 if out.dtype == torch.float16 else 1e-5
    assert (out.dtype, out.shape) == (qkv[0].dtype, expected.shape)
    torch.testing.assert_close(out.float().cpu(), expected, atol=bound, rtol=bound)


def check_bits(attend, qkv, alibi):
    device = qkv[0].device
    packing = packing_on(device, LENGTHS)
    together = attend(*qkv, packing, table_of(qkv, max(LENGTHS), alibi))
    for start, stop in zip(packing.bounds[:-1], packing.bounds[1:], strict=True):
        own, length = [x[start:stop] for x in qkv], stop - start
        alone = attend(*own, packing_on(device, [length]), table_of(own, length, alibi))
        assert torch.equal(alone, together[start:stop]), f"length {length}"


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_varlen_equals_attention_per_sequence(device, half, head_dim):
    check_rows(attend_varlen, random_qkv(head_dim, device, half), alibi=False)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_varlens_neighbours_do_not_change_a_bit(device, half, head_dim):
    check_bits(attend_varlen, random_qkv(head_dim, device, half), alibi=False)


@pytest.mark.parametrize("alibi", BIASES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_by_length_equals_attention_per_sequence(device, dtype, head_dim, alibi):
    check_rows(attend_by_length, random_qkv(head_dim, device, dtype), alibi)


@pytest.mark.parametrize("alibi", BIASES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_by_lengths_neighbours_do_not_change_a_bit(device, dtype, head_dim, alibi):
    check_bits(attend_by_length, random_qkv(head_dim, device, dtype), alibi)
