"""Attention over a packed batch: sequences laid end to end, T tokens in all, no padding.

Every implementation takes q, k and v, each (T, heads, head_dim) and all of one dtype; the batch's
Packing; and `table`: alibi_table's result, or None for a model without ALiBi. q is scaled already,
so the scale here is 1. The result has the shape and dtype of q. Each row of the result depends on
the rows of its own sequence alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from seqembed.kernels.flash_attention import attend_packed

# With ALiBi, this many queries attend at once: the biases of all queries would need memory that is
# quadratic in a sequence's length.
CHUNK = 256
# PyTorch's CPU kernel takes this many queries at once, and gives each thread a part of a buffer.
# With fewer queries the parts are not aligned, and last bits depend on the thread (measured).
CPU_QUERIES = 32


@dataclass(frozen=True, eq=False)
class Packing:
    """Where B sequences lie in a packed batch.

    bounds: B + 1 numbers: sequence i has the rows bounds[i] to bounds[i + 1] - 1. cu_seqlens: the
    same numbers, (B + 1,) int32, on the batch's device.
    """

    bounds: tuple[int, ...]
    cu_seqlens: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Packing:
        """Return the packing of sequences of these lengths in tokens; cu_seqlens is on the CPU."""
        bounds = tuple(accumulate(lengths, initial=0))
        return cls(bounds, torch.tensor(bounds, dtype=torch.int32))

    @cached_property
    def longest(self) -> int:
        """The number of tokens of the longest sequence."""
        return max(stop - start for start, stop in pairwise(self.bounds))

    @cached_property
    def positions(self) -> Tensor:
        """Each token's place in its sequence, from 0: (T,) int64, on the device of cu_seqlens."""
        starts, lengths, total = self.cu_seqlens[:-1], self.cu_seqlens.diff(), self.bounds[-1]
        offsets = torch.repeat_interleave(starts, lengths, output_size=total)
        return torch.arange(total, device=starts.device) - offsets

    @cached_property
    def groups(self) -> tuple[tuple[int, slice | Tensor], ...]:
        """Each length that occurs, and which rows of the batch all sequences of that length have.

        If the n sequences of a length lie side by side, the rows are given as a slice; otherwise as
        row indices, (n * length,) int64, on the device of cu_seqlens.
        """
        starts: dict[int, list[int]] = {}
        for start, stop in pairwise(self.bounds):
            starts.setdefault(stop - start, []).append(start)
        rows: dict[int, slice | Tensor] = {}
        apart: dict[int, Tensor] = {}
        for length, first in starts.items():
            rows[length] = slice(first[0], first[-1] + length)
            if first[-1] - first[0] != length * (len(first) - 1):
                apart[length] = (torch.tensor(first).unsqueeze(1) + torch.arange(length)).flatten()
        if apart:
            # All lengths' numbers go to the device in one copy, and the CPU does not wait for it.
            sent = torch.cat([*apart.values()])
            if self.cu_seqlens.is_cuda:
                sent = sent.pin_memory().to(self.cu_seqlens.device, non_blocking=True)
            rows |= zip(apart, torch.split(sent, [*map(len, apart.values())]), strict=True)
        return tuple(rows.items())


# Attention over one batch: packed q, k and v, (T, 3, heads, head_dim) -> (T, heads, head_dim).
Attend = Callable[[Tensor], Tensor]
# An implementation of attention, as the module describes it: (q, k, v, packing, table) -> rows.
Attention = Callable[[Tensor, Tensor, Tensor, Packing, Tensor | None], Tensor]


def alibi_slopes(heads: int) -> Tensor:
    """Return ALiBi's slope for each head, (heads,) float32 (Press et al. 2022, arXiv:2108.12409).

    If the number p of heads is a power of two, the slopes are 2 ** (-8 i / p) for i from 1 to p.
    Otherwise p is the next smaller power of two, and slopes 1, 3, 5, ... of 2 p heads follow.
    """
    power = 1 << heads.bit_length() - 1
    exponents = [8 * i / power for i in range(1, power + 1)]
    exponents += [8 * i / (2 * power) for i in range(1, 2 * power, 2)]
    return torch.tensor([2.0**-exponent for exponent in exponents[:heads]])


def alibi_table(slopes: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """Return ALiBi's biases: -slope * |i - j| for the query of token i and the key of token j.

    slopes: (heads,) float32. longest: the number of tokens of the longest sequence. The result is
    (heads, CHUNK, 2 N) in `dtype`, where N is `longest` rounded up to a multiple of CHUNK. For the
    CHUNK queries from token a on, the bias of query a + i and key j is at [:, i, j - a + N].
    """
    reach = -(-longest // CHUNK) * CHUNK
    queries = torch.arange(CHUNK, device=slopes.device)
    keys = torch.arange(-reach, reach, device=slopes.device)
    distances = (queries.unsqueeze(1) - keys).abs()
    return (-slopes.view(-1, 1, 1) * distances).to(dtype)


def attend_per_sequence(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, table: Tensor | None = None
) -> Tensor:
    """Return attention's result, computed sequence by sequence; for any device and dtype."""
    out = torch.empty_like(q)
    for start, stop in pairwise(packing.bounds):
        # (length, heads, head_dim) -> (1, heads, length, head_dim), without copying.
        one_q, one_k, one_v = (x[start:stop].transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        one_q = functional.pad(one_q, (0, 0, 0, (start - stop) % CPU_QUERIES))
        attended = _attend_stacked(one_q, one_k, one_v, table)[0, :, : stop - start]
        out[start:stop] = attended.transpose(0, 1)
    return out


def attend_by_length(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, table: Tensor | None = None
) -> Tensor:
    """Return attention's result, for all sequences of a length at once; any device and dtype."""
    out = torch.empty_like(q)
    # cuDNN is left out: it makes a plan for each shape, and may add in another order each time.
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        for length, rows in packing.groups:
            # (B_g * length, heads, head_dim) -> (B_g, heads, length, head_dim)
            shape = (-1, length, *q.shape[1:])
            some_q, some_k, some_v = (x[rows].reshape(shape).transpose(1, 2) for x in (q, k, v))
            attended = _attend_stacked(some_q, some_k, some_v, table)
            out[rows] = attended.transpose(1, 2).flatten(0, 1)
    return out


def attend_varlen(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, table: Tensor | None = None
) -> Tensor:
    """Return attention's result, all sequences at once; on CUDA, in fp16 or bf16, without ALiBi."""
    if table is not None:
        raise ValueError("attend_varlen takes no biases: `table` must be None")
    return attend_packed(q, k, v, packing.cu_seqlens, packing.longest)


def choose_attention(device: torch.device, dtype: torch.dtype, alibi: bool) -> Attention:
    """Return the implementation for a device and the weights' dtype; alibi: if there are biases."""
    if device.type != "cuda":
        return attend_per_sequence
    if dtype in (torch.float16, torch.bfloat16) and not alibi:
        return attend_varlen
    return attend_by_length


def _attend_stacked(q: Tensor, k: Tensor, v: Tensor, table: Tensor | None) -> Tensor:
    """Return the rows of B equally long sequences; q, k, v, rows: (B, heads, length, head_dim)."""
    if table is None:
        return scaled_dot_product_attention(q, k, v, scale=1.0)
    length, reach = k.shape[2], table.shape[2] // 2
    chunks = []
    for start in range(0, q.shape[2], CHUNK):
        queries = q[:, :, start : start + CHUNK]
        bias = table[:, : queries.shape[2], reach - start : reach - start + length].unsqueeze(0)
        chunks.append(scaled_dot_product_attention(queries, k, v, attn_mask=bias, scale=1.0))
    return torch.cat(chunks, dim=2)
