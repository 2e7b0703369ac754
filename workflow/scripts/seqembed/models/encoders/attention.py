"""Attention over a packed batch: sequences laid end to end, T tokens in all, no padding.

Every implementation takes q, k and v, each (T, heads, head_dim) and all of one dtype; the batch's
Packing; and the Biases that are added to scores, or None for a model without. q is scaled already,
so the scale here is 1. The result has the shape and dtype of q. Each row of the result depends on
the rows of its own sequence alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from seqembed.kernels.flash_attention import attend_packed
from seqembed.kernels.names import PLAIN
from seqembed.models.architectures import BIASED_QUERIES

# PyTorch's CPU kernel takes this many queries at once, and gives each thread a part of a buffer.
# With fewer queries the parts are not aligned, and last bits depend on the thread (measured).
CPU_QUERIES = 32


@dataclass(frozen=True, eq=False)
class Packing:
    """Where B sequences lie in a packed batch of T tokens.

    cu_seqlens: (B + 1,) int32, on the batch's device: sequence i has the rows cu_seqlens[i] to
    cu_seqlens[i + 1] - 1. total: T. longest: no sequence has more tokens. known: cu_seqlens as
    numbers; None in a CUDA graph, which computes other sequences each time.
    """

    cu_seqlens: Tensor
    total: int
    longest: int
    known: tuple[int, ...] | None = None

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Packing:
        """Return the packing of sequences of these lengths in tokens; cu_seqlens is on the CPU."""
        bounds = tuple(accumulate(lengths, initial=0))
        return cls(torch.tensor(bounds, dtype=torch.int32), bounds[-1], max(lengths), bounds)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Packing:
        """Return this packing with cu_seqlens on a device; non_blocking: as in Tensor.to."""
        return replace(self, cu_seqlens=self.cu_seqlens.to(device, non_blocking=non_blocking))

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """The B + 1 numbers of cu_seqlens. If they are not known, the CPU waits for the device."""
        return tuple(self.cu_seqlens.tolist()) if self.known is None else self.known

    @cached_property
    def positions(self) -> Tensor:
        """Each token's place in its sequence, from 0: (T,) int64, on the device of cu_seqlens."""
        starts, lengths = self.cu_seqlens[:-1], self.cu_seqlens.diff()
        offsets = torch.repeat_interleave(starts, lengths, output_size=self.total)
        return torch.arange(self.total, device=starts.device) - offsets

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


@dataclass(frozen=True, eq=False)
class Biases:
    """What is added to each head's scores, by the distance of key and query.

    by_distance: (heads, 2 N - 1) float32, where N is the number of tokens of the batch's longest
    sequence, or more: the bias of query i and key j is at [:, j - i + N - 1].
    """

    by_distance: Tensor

    @property
    def longest(self) -> int:
        """The N of `by_distance`."""
        return self.by_distance.shape[1] // 2 + 1

    @cached_property
    def strips(self) -> Tensor:
        """The biases of C = BIASED_QUERIES queries, (heads, C, 2 R) float32.

        R is N rounded up to a multiple of C. For the C queries from token a on, the bias of query
        a + i and key j is at [:, i, j - a + R]; 0 if they are farther apart than N - 1.
        """
        reach = -(-self.longest // BIASED_QUERIES) * BIASED_QUERIES
        around = (reach + BIASED_QUERIES - self.longest, reach - self.longest)
        rows = functional.pad(self.by_distance, around).unfold(1, 2 * reach, 1)
        # By flip(1) the keys of a query would lie apart, which PyTorch's fast attention refuses.
        return rows[:, torch.arange(BIASED_QUERIES - 1, -1, -1, device=rows.device)]


# Attention over one batch: packed q, k and v, (T, 3, heads, head_dim) -> (T, heads, head_dim).
Attend = Callable[[Tensor], Tensor]
# An implementation of attention, as the module describes it: (q, k, v, packing, biases) -> rows.
Attention = Callable[[Tensor, Tensor, Tensor, Packing, Biases | None], Tensor]


def alibi_slopes(heads: int) -> Tensor:
    """Return ALiBi's slope for each head, (heads,) float32 (Press et al. 2022, arXiv:2108.12409).

    If the number p of heads is a power of two, the slopes are 2 ** (-8 i / p) for i from 1 to p.
    Otherwise p is the next smaller power of two, and slopes 1, 3, 5, ... of 2 p heads follow.
    """
    power = 1 << heads.bit_length() - 1
    exponents = [8 * i / power for i in range(1, power + 1)]
    exponents += [8 * i / (2 * power) for i in range(1, 2 * power, 2)]
    return torch.tensor([2.0**-exponent for exponent in exponents[:heads]])


def alibi_biases(slopes: Tensor, longest: int) -> Biases:
    """Return ALiBi's biases: -slope * |i - j| for the query of token i and the key of token j.

    slopes: (heads,) float32. longest: the number of tokens of the longest sequence.
    """
    distances = torch.arange(1 - longest, longest, device=slopes.device).abs()
    return Biases(-slopes.unsqueeze(1) * distances)


def attend_per_sequence(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, biases: Biases | None = None
) -> Tensor:
    """Return attention's result, computed sequence by sequence; for any device and dtype."""
    out = torch.empty_like(q)
    for start, stop in pairwise(packing.bounds):
        # (length, heads, head_dim) -> (1, heads, length, head_dim), without copying.
        one_q, one_k, one_v = (x[start:stop].transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        one_q = functional.pad(one_q, (0, 0, 0, (start - stop) % CPU_QUERIES))
        attended = _attend_stacked(one_q, one_k, one_v, biases)[0, :, : stop - start]
        out[start:stop] = attended.transpose(0, 1)
    return out


def attend_by_length(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, biases: Biases | None = None
) -> Tensor:
    """Return attention's result, for all sequences of a length at once; any device and dtype."""
    out = torch.empty_like(q)
    # cuDNN is left out: it makes a plan for each shape, and may add in another order each time.
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        for length, rows in packing.groups:
            # (B_g * length, heads, head_dim) -> (B_g, heads, length, head_dim)
            shape = (-1, length, *q.shape[1:])
            some_q, some_k, some_v = (x[rows].reshape(shape).transpose(1, 2) for x in (q, k, v))
            attended = _attend_stacked(some_q, some_k, some_v, biases)
            out[rows] = attended.transpose(1, 2).flatten(0, 1)
    return out


def attend_varlen(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, biases: Biases | None = None
) -> Tensor:
    """Return attention's result, all sequences at once; on CUDA, fp16 or bf16, without biases."""
    if biases is not None:
        raise ValueError("attend_varlen takes no biases")
    return attend_packed(q, k, v, packing.cu_seqlens, packing.longest)


def attend_fused(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, biases: Biases | None = None
) -> Tensor:
    """Return attention's result, all sequences at once, by a kernel in Triton; any dtype."""
    from seqembed.kernels.biased_attention import attend_biased

    table, longest = (biases.by_distance, biases.longest) if biases else (None, packing.longest)
    return attend_biased(q, k, v, packing.cu_seqlens, longest, table)


def choose_attention(
    device: torch.device, dtype: torch.dtype, head_dim: int, biased: bool, kernels: str
) -> Attention:
    """Return the implementation for a device, the weights' dtype, and a recipe's `kernels`.

    biased: whether the model has biases.
    """
    if device.type != "cuda":
        return attend_per_sequence
    # PyTorch's FlashAttention takes these widths only, and does not pad.
    flash = dtype in (torch.float16, torch.bfloat16) and head_dim % 8 == 0 and head_dim <= 256
    if flash and not biased:
        return attend_varlen
    return attend_by_length if kernels == PLAIN else attend_fused


def _attend_stacked(q: Tensor, k: Tensor, v: Tensor, biases: Biases | None) -> Tensor:
    """Return the rows of B equally long sequences; q, k, v, rows: (B, heads, length, head_dim)."""
    if biases is None:
        return scaled_dot_product_attention(q, k, v, scale=1.0)
    chunks, strips, length = [], biases.strips, k.shape[2]
    for start in range(0, q.shape[2], BIASED_QUERIES):
        queries, reach = q[:, :, start : start + BIASED_QUERIES], strips.shape[2] // 2 - start
        bias = strips[None, :, : queries.shape[2], reach : reach + length].to(q.dtype)
        chunks.append(scaled_dot_product_attention(queries, k, v, attn_mask=bias, scale=1.0))
    return torch.cat(chunks, dim=2)
