"""Attention over a packed batch: sequences laid end to end, no padding.

Every implementation takes q, k, v of shape (T, heads, head_dim), the batch's Packing and, for
ALiBi, the batch's alibi_table. The query is scaled already, so the scale here is 1. The result has
q's shape and dtype, and each row depends on the row's own sequence alone.
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

# Queries that attend at once under ALiBi: a bias of all queries would be quadratic in memory.
CHUNK = 256
# PyTorch's CPU kernel takes this many queries at once, and gives each thread a part of a buffer.
# With fewer queries the parts are not aligned, and last bits depend on the thread (measured).
CPU_QUERIES = 32


@dataclass(frozen=True, eq=False)
class Packing:
    """Where sequences lie in a packed batch: sequence i holds rows bounds[i] to bounds[i + 1].

    cu_seqlens: the bounds as a tensor, (B + 1,) int32, on the batch's device.
    """

    bounds: tuple[int, ...]
    cu_seqlens: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Packing:
        """Pack sequences of these lengths, in tokens, one after the other, on the CPU."""
        bounds = tuple(accumulate(lengths, initial=0))
        return cls(bounds, torch.tensor(bounds, dtype=torch.int32))

    @property
    def longest(self) -> int:
        return max(stop - start for start, stop in pairwise(self.bounds))

    @cached_property
    def groups(self) -> tuple[tuple[int, slice | Tensor], ...]:
        """For each length, the rows of the sequences: a slice if they are neighbours."""
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
            # One copy to the device for all lengths.
            sent = torch.cat([*apart.values()]).to(self.cu_seqlens.device)
            rows |= zip(apart, torch.split(sent, [*map(len, apart.values())]), strict=True)
        return tuple(rows.items())


# Attention over one batch: (q, k, v) -> rows.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Attention:
    """An implementation, with a name for logs."""

    name: str
    attend: Callable[[Tensor, Tensor, Tensor, Packing, Tensor | None], Tensor]

    def over(self, packing: Packing, table: Tensor | None = None) -> Attend:
        """Return the attention over one batch; table: the alibi_table; None: no bias."""
        return lambda q, k, v: self.attend(q, k, v, packing, table)


def alibi_slopes(heads: int) -> Tensor:
    """Return ALiBi's slope of each head, (heads,) float32 (Press et al. 2022, arXiv:2108.12409).

    For p heads, a power of two, the slopes are 2 ** (-8 i / p), i = 1 to p. Other numbers of heads
    take the slopes of the next smaller power, then every second slope of the next larger power.
    """
    power = 1 << heads.bit_length() - 1
    exponents = [8 * i / power for i in range(1, power + 1)]
    exponents += [8 * i / (2 * power) for i in range(1, 2 * power, 2)]
    return torch.tensor([2.0**-exponent for exponent in exponents[:heads]])


def alibi_table(slopes: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """Return the biases of all chunks of queries of sequences up to `longest` tokens.

    slopes: (heads,) float32. The result is (heads, CHUNK, 2 N) in `dtype`; N: `longest` rounded up
    to whole chunks. Query a + i, in the chunk from a on, and key j have bias [:, i, j - a + N].
    """
    reach = -(-longest // CHUNK) * CHUNK
    queries = torch.arange(CHUNK, device=slopes.device)
    keys = torch.arange(-reach, reach, device=slopes.device)
    distances = (queries.unsqueeze(1) - keys).abs()
    return (-slopes.view(-1, 1, 1) * distances).to(dtype)


def attend_per_sequence(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, table: Tensor | None = None
) -> Tensor:
    """Attend sequence by sequence, on slices of the packed tensors; any device and dtype."""
    out = torch.empty_like(q)
    for start, stop in pairwise(packing.bounds):
        # (length, heads, head_dim) -> (1, heads, length, head_dim): views, nothing is copied.
        one_q, one_k, one_v = (x[start:stop].transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        one_q = functional.pad(one_q, (0, 0, 0, (start - stop) % CPU_QUERIES))
        attended = _attend_stacked(one_q, one_k, one_v, table)[0, :, : stop - start]
        out[start:stop] = attended.transpose(0, 1)
    return out


def attend_by_length(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, table: Tensor | None = None
) -> Tensor:
    """Attend to all sequences of one length at once; any device and dtype."""
    out = torch.empty_like(q)
    # Not cuDNN: it makes a plan for each shape, and promises nothing on the order of its sums.
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        for length, rows in packing.groups:
            # (B_g length, heads, head_dim) -> (B_g, heads, length, head_dim)
            shape = (-1, length, *q.shape[1:])
            some_q, some_k, some_v = (x[rows].reshape(shape).transpose(1, 2) for x in (q, k, v))
            attended = _attend_stacked(some_q, some_k, some_v, table)
            out[rows] = attended.transpose(1, 2).flatten(0, 1)
    return out


def attend_varlen(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, table: Tensor | None = None
) -> Tensor:
    """Attend to all sequences in one kernel; CUDA, fp16 or bf16. ValueError for a table."""
    # Imported here, for CUDA alone: torch._dynamo, which comes along, takes seconds to import.
    from torch.nn.attention.varlen import varlen_attn

    if table is not None:
        raise ValueError("attend_varlen takes no bias")
    bounds, longest = packing.cu_seqlens, packing.longest
    # With more splits, the longest sequence would decide the order of every sequence's sums.
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=1.0, num_splits=1)
    assert isinstance(out, Tensor)  # a tuple comes back only where auxiliary output is asked for
    return out


PER_SEQUENCE = Attention("SDPA, sequence by sequence", attend_per_sequence)
BY_LENGTH = Attention("SDPA, length by length", attend_by_length)
VARLEN = Attention("varlen_attn", attend_varlen)


def choose_attention(device: torch.device, dtype: torch.dtype, alibi: bool) -> Attention:
    """Return the implementation for this device and dtype; alibi: attention has a bias."""
    if device.type != "cuda":
        return PER_SEQUENCE
    if dtype in (torch.float16, torch.bfloat16) and not alibi:
        return VARLEN
    return BY_LENGTH


def _attend_stacked(q: Tensor, k: Tensor, v: Tensor, table: Tensor | None) -> Tensor:
    """Attend to sequences of one length, (B, heads, length, head_dim); q may have more rows."""
    if table is None:
        return scaled_dot_product_attention(q, k, v, scale=1.0)
    length, reach = k.shape[2], table.shape[2] // 2
    chunks = []
    for start in range(0, q.shape[2], CHUNK):
        queries = q[:, :, start : start + CHUNK]
        bias = table[:, : queries.shape[2], reach - start : reach - start + length].unsqueeze(0)
        chunks.append(scaled_dot_product_attention(queries, k, v, attn_mask=bias, scale=1.0))
    return torch.cat(chunks, dim=2)
