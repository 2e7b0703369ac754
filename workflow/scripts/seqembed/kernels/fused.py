"""The steps of `plain`, each as one launch of a kernel in Triton, with the same arguments.

A program of a kernel computes one token's row, or one span's, so that a row's bits depend on no
other row, and on nothing but its width. rotate_ gives the bits of the plain formula; the sums of
the others are added in another order. Importing this module needs Triton.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from seqembed.kernels import plain

# `pool` reads this many rows and columns of a span at once.
POOLED_ROWS, POOLED_COLUMNS = 32, 64


def _warps(block: int) -> int:
    """Return the warps of a program: a thread has up to 16 values of a row, in its registers.

    A thread without a value would read and write those of another thread; blocks of 32 values and
    more have none.
    """
    return min(max(block // 512, min(block // 32, 4), 1), 16)


def rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate queries and keys in place, as plain.rotate_ does; a token's values lie together."""
    if not (x[0].is_contiguous() and cos.is_contiguous() and sin.is_contiguous()):
        raise ValueError("rotate_: the values of a token must lie together")
    pairs, half = x[0].numel() // 2, x.shape[-1] // 2
    block = triton.next_power_of_2(pairs)
    # Without fusion, products are rounded before they are added, as in the plain formula.
    options = {"enable_fp_fusion": False, "num_warps": _warps(block)}
    _rotate[(len(x),)](x, cos, sin, x.stride(0), pairs, half, block, **options)


@triton.jit
def _rotate(x, cos, sin, stride, PAIRS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, BLOCK)
    mask = pair < PAIRS
    first = x + token * stride + pair // HALF * (2 * HALF) + pair % HALF
    second = first + HALF
    a = tl.load(first, mask).to(tl.float32)
    b = tl.load(second, mask).to(tl.float32)
    c = tl.load(cos + token * HALF + pair % HALF, mask)
    s = tl.load(sin + token * HALF + pair % HALF, mask)
    tl.store(first, a * c - b * s, mask)
    tl.store(second, b * c + a * s, mask)


def add_norm(x: Tensor, branch: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return x + branch, and norm(x + branch), as plain.add_norm does.

    The sum is rounded to its dtype before it is normalised, in float32.
    """
    if not isinstance(norm, nn.LayerNorm | plain.RmsNorm):
        return plain.add_norm(x, branch, norm)
    x, branch = x.contiguous(), branch.contiguous()
    total, normed = branch if branch.dtype == x.dtype else x, torch.empty_like(branch)
    centred = isinstance(norm, nn.LayerNorm)
    width, bias = x.shape[1], norm.bias if centred else None
    block = triton.next_power_of_2(width)
    launch, warps = _add_norm[(len(x),)], _warps(block)
    sizes = (width, norm.eps, centred, block)
    launch(x, branch, total, normed, norm.weight, bias, *sizes, num_warps=warps)
    return total, normed


@triton.jit
def _add_norm(
    x, branch, total, normed, weight, bias,
    WIDTH: tl.constexpr, EPS: tl.constexpr, CENTRED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    place = tl.program_id(0).to(tl.int64) * WIDTH + column
    added = tl.load(x + place, mask, other=0.0).to(tl.float32)
    added += tl.load(branch + place, mask, other=0.0).to(tl.float32)
    rounded = added.to(total.dtype.element_ty)
    tl.store(total + place, rounded, mask)
    value = rounded.to(tl.float32)
    if CENTRED:
        value = tl.where(mask, value - tl.sum(value) / WIDTH, 0.0)
    scale = tl.rsqrt(tl.sum(value * value) / WIDTH + EPS)
    w = tl.load(weight + column, mask, other=0.0).to(tl.float32)
    b = 0.0
    if bias is not None:
        b = tl.load(bias + column, mask, other=0.0).to(tl.float32)
    tl.store(normed + place, value * scale * w + b, mask)


def pool(rows: Tensor, spans: Sequence[tuple[int, int]], largest: bool) -> Tensor:
    """Return one row for each span: (B, D) float32, as plain.pool does."""
    rows, width = rows.contiguous(), rows.shape[1]
    pooled = rows.new_empty((len(spans), width), dtype=torch.float32)
    pinned = torch.tensor(spans, dtype=torch.int32, pin_memory=rows.is_cuda)
    bounds = pinned.to(rows.device, non_blocking=True)
    grid = (len(spans), triton.cdiv(width, POOLED_COLUMNS))
    _pool[grid](rows, bounds, pooled, width, largest, POOLED_ROWS, POOLED_COLUMNS)
    return pooled


@triton.jit
def _pool(
    rows, bounds, pooled, WIDTH: tl.constexpr, LARGEST: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    span = tl.program_id(0)
    start, stop = tl.load(bounds + 2 * span), tl.load(bounds + 2 * span + 1)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    nothing = float("-inf") if LARGEST else 0.0
    found = tl.full((ROWS, COLUMNS), nothing, tl.float32)
    # Triton 3.6 interprets no `for` over bounds that were loaded.
    first = start
    while first < stop:
        row = first + tl.arange(0, ROWS)
        mask = (row < stop)[:, None] & (column < WIDTH)[None, :]
        place = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
        values = tl.load(rows + place, mask, other=nothing).to(tl.float32)
        found = _largest(found, values) if LARGEST else found + values
        first += ROWS
    count = (stop - start).to(tl.float32)
    result = tl.reduce(found, 0, _largest) if LARGEST else tl.div_rn(tl.sum(found, 0), count)
    tl.store(pooled + span * WIDTH + column, result, column < WIDTH)


@triton.jit
def _largest(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
