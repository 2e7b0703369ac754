"""Attention on a CUDA device against attention one sequence at a time, in fp32, on the CPU."""

import pytest
import torch

from seqembed.environment import EnvConfig
from seqembed.models.encoders.attention import (
    Biases,
    Packing,
    alibi_biases,
    alibi_slopes,
    attend_by_length,
    attend_fused,
    attend_per_sequence,
    attend_varlen,
)
from seqembed.settings.precision import should_use_fp16

HEADS = 12
LENGTHS = [1024, 300, 300, 300, 128, 17, 300, 17, 2, 1]
# Of ESM-2 with 6, 12, 30, 33 and 36, and 48 layers. No known model has 80, which is padded.
HEAD_DIMS = [16, 24, 32, 64, 80, 128]
CASES = [
    *((attend_varlen, dtype, False) for dtype in (torch.float16, torch.bfloat16)),
    *(
        (attend, dtype, alibi)
        for attend in (attend_by_length, attend_fused)
        for dtype in (torch.float32, torch.float16)
        for alibi in (False, True)
    ),
    (attend_fused, torch.bfloat16, True),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__} {case[1]} alibi={case[2]}")
def case(request, card):
    device, (attend, _, _) = torch.device("cuda"), request.param
    old = not should_use_fp16(device, EnvConfig.from_environ({}))
    if old and attend in (attend_varlen, attend_fused):
        pytest.skip("this CUDA device is older than Ampere: its attention is by length")
    return device, *request.param


def random_qkv(head_dim, device, dtype):
    """q, k, v as a layer has them, each (T, heads, head_dim), the query scaled."""
    generator = torch.Generator().manual_seed(head_dim)
    shape = (sum(LENGTHS), 3, HEADS, head_dim)
    packed = torch.randn(shape, generator=generator)
    packed[:, 0] *= head_dim**-0.5
    return packed.to(device, dtype).unbind(1)


def packing_on(device, lengths):
    return Packing.of(lengths).to(device)


def biases_of(qkv, longest, alibi):
    return alibi_biases(alibi_slopes(HEADS).to(qkv[0].device), longest) if alibi else None


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_packed_attention_equals_attention_per_sequence(case, head_dim):
    device, attend, dtype, alibi = case
    qkv = random_qkv(head_dim, device, dtype)
    biases = biases_of(qkv, max(LENGTHS), alibi)
    out = attend(*qkv, packing_on(device, LENGTHS), biases)
    # Rounded as on the device: only the sums are compared here.
    exact = [x.float().cpu() for x in qkv]
    if alibi:
        table = biases.by_distance.cpu()
        exact.append(Biases(table.to(dtype).float() if attend is attend_by_length else table))
    expected = attend_per_sequence(*exact[:3], Packing.of(LENGTHS), *exact[3:])
    bound = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    assert (out.dtype, out.shape) == (dtype, expected.shape)
    torch.testing.assert_close(out.float().cpu(), expected, atol=bound, rtol=bound)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_neighbours_do_not_change_a_bit(case, head_dim):
    device, attend, dtype, alibi = case
    qkv, packing = random_qkv(head_dim, device, dtype), packing_on(device, LENGTHS)
    together = attend(*qkv, packing, biases_of(qkv, max(LENGTHS), alibi))
    for start, stop in zip(packing.bounds[:-1], packing.bounds[1:], strict=True):
        own, length = [x[start:stop] for x in qkv], stop - start
        alone = attend(*own, packing_on(device, [length]), biases_of(own, length, alibi))
        assert torch.equal(alone, together[start:stop]), f"length {length}"
