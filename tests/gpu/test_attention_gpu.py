"""The fp16 kernel against plain attention, one sequence at a time, in fp32."""

import pytest
import torch

from seqembed.environment import EnvConfig
from seqembed.models.attention import attend_per_sequence, attend_varlen, choose_attention
from seqembed.precision import should_use_fp16

HEADS = 4
LENGTHS = [1, 2, 17, 128, 300, 1024]
# Of ESM-2 with 6, 12, 30, 33 and 36, and 48 layers.
HEAD_DIMS = [16, 24, 32, 64, 128]


@pytest.fixture(autouse=True)
def device(card):
    device = torch.device("cuda")
    if not should_use_fp16(device, EnvConfig.from_environ({})):
        pytest.skip("this CUDA device is older than Ampere: no fp16 attention to test")
    return device


def packed(lengths, head_dim, device):
    """q, k, v of shape (T, heads, head_dim), fp16, the query scaled; cu_seqlens (B + 1,)."""
    generator = torch.Generator().manual_seed(head_dim)
    shape = (3, sum(lengths), HEADS, head_dim)
    q, k, v = torch.randn(shape, generator=generator).unbind(0)
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    packs = (x.to(device, torch.float16) for x in (q * head_dim**-0.5, k, v))
    return *packs, bounds.to(device)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_varlen_equals_attention_per_sequence(device, head_dim):
    q, k, v, bounds = packed(LENGTHS, head_dim, device)
    out = attend_varlen(q, k, v, bounds)
    expected = attend_per_sequence(q.float(), k.float(), v.float(), bounds)
    assert out.dtype == torch.float16
    assert out.shape == expected.shape
    torch.testing.assert_close(out.float(), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_neighbours_do_not_change_a_bit(device, head_dim):
    q, k, v, bounds = packed(LENGTHS, head_dim, device)
    together = attend_varlen(q, k, v, bounds)
    edges = bounds.tolist()
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        own = torch.tensor([0, stop - start], dtype=torch.int32, device=device)
        alone = attend_varlen(q[start:stop], k[start:stop], v[start:stop], own)
        assert torch.equal(alone, together[start:stop]), f"length {stop - start}"


def test_varlen_is_chosen_for_fp16_on_cuda_only(device):
    assert choose_attention(device, torch.float16) is attend_varlen
    assert choose_attention(device, torch.float32) is attend_per_sequence
