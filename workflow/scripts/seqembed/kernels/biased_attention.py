"""Attention over packed sequences with a bias by distance, as one launch of a kernel in Triton.

A program of the kernel computes one head's rows for a block of a sequence's queries, and takes the
sequence's keys block by block, as FlashAttention-2 does (Dao 2023, arXiv:2307.08691). Blocks begin
at the sequence's first token, and their sizes are constants, so that a row's bits depend on its own
sequence alone. PyTorch's own FlashAttention takes no biases: PyTorch 2.11 and 2.13 on PyPI are
built without its ALiBi. Importing this module needs Triton. No GPU has run the kernel yet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Tiles(NamedTuple):
    """How many queries and keys a program takes at once, its warps, and its blocks of keys ahead.

    The order of a row's sums follows `keys`.
    """

    queries: int
    keys: int
    warps: int
    stages: int


# By the bytes of a value, for heads of up to 64 values and for wider ones: what leaves each thread
# its values in registers, and fits the shared memory of all GPUs since Ampere (as ptxas tells).
TILES = {
    2: (Tiles(64, 64, 4, 3), Tiles(64, 64, 4, 2)),
    4: (Tiles(64, 32, 8, 2), Tiles(32, 32, 8, 2)),
}


def attend_biased(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    longest: int,
    biases: Tensor | None,
    tiles: Tiles | None = None,
) -> Tensor:
    """Return attention's rows for all sequences of a packed batch, at once, on a GPU.

    q, k, v, and the result: (T, heads, head_dim), float32, float16 or bfloat16; q is scaled
    already. cu_seqlens: (B + 1,) int32, where the sequences begin and end. longest: the number of
    tokens of the longest sequence, or more. biases: (heads, 2 * longest - 1) float32, where the
    bias of query i and key j is at [:, j - i + longest - 1]; None: there are none. Products are
    summed, and biases added, in float32; float32 is never rounded to TF32. tiles: those of TILES,
    unless they are being compared. Launches on the current device. Raises ValueError if the values
    of a token's heads lie apart, or if the biases have another shape or lie apart.
    """
    _, heads, width = q.shape
    if not (q.stride() == k.stride() == v.stride() and q.stride()[1:] == (width, 1)):
        raise ValueError("attend_biased: the values of a token's heads must lie together")
    if biases is not None and not (
        biases.shape == (heads, 2 * longest - 1)
        and biases.is_contiguous()
        and biases.dtype == torch.float32
    ):
        raise ValueError("attend_biased: biases must be float32, (heads, 2 * longest - 1)")
    queries, keys, warps, stages = tiles or TILES[q.itemsize][width > 64]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    strides, padded = (q.stride(0), out.stride(0)), max(triton.next_power_of_2(width), 16)
    launch = _attend[(triton.cdiv(longest, queries) * (len(cu_seqlens) - 1), heads)]
    sizes, options = (width, padded, queries, keys), {"num_warps": warps, "num_stages": stages}
    launch(q, k, v, out, cu_seqlens, biases, *strides, longest, *sizes, **options)
    return out


# Triton would compile another kernel where `longest` is 1 or a multiple of 16, and the bits of a
# row could follow its batch.
@triton.jit(do_not_specialize=["longest"])
def _attend(
    q, k, v, out, bounds, biases, stride, out_stride, longest,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(longest, QUERIES)
    sequence, head = tl.program_id(0) // blocks, tl.program_id(1)
    start = tl.load(bounds + sequence)
    length = tl.load(bounds + sequence + 1) - start
    first = tl.program_id(0) % blocks * QUERIES
    if first >= length:
        return
    # A sequence may begin behind more values than an int32 counts.
    begin, own = start.to(tl.int64), head * WIDTH
    query, key, column = tl.arange(0, QUERIES), tl.arange(0, KEYS), tl.arange(0, PADDED)
    rows, inside = (first + query < length)[:, None], (column < WIDTH)[None, :]
    query_places = query[:, None] * stride + column[None, :]
    key_places = key[:, None] * stride + column[None, :]
    queries = tl.load(q + (begin + first) * stride + own + query_places, rows & inside, other=0.0)
    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    found = tl.zeros((QUERIES, PADDED), tl.float32)
    for block in range(0, length, KEYS):
        here = block + key < length
        block_place, wanted = (begin + block) * stride + own, here[:, None] & inside
        keys = tl.load(k + block_place + key_places, wanted, other=0.0)
        values = tl.load(v + block_place + key_places, wanted, other=0.0)
        # On tensor cores, float32 would be rounded to TF32.
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
        if biases is not None:
            distances = (block - first) + key[None, :] - query[:, None]
            table = biases + head * (2 * longest - 1) + longest - 1
            scores += tl.load(table + distances, rows & here[None, :], other=0.0)
        scores = tl.where(here[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights, shrink = tl.exp(scores - higher[:, None]), tl.exp(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        found = found * shrink[:, None]
        found = tl.dot(weights.to(values.dtype), values, found, input_precision="ieee")
        highest = higher
    places = query[:, None] * out_stride + column[None, :]
    target = out + (begin + first) * out_stride + own + places
    tl.store(target, found / total[:, None], rows & inside)
