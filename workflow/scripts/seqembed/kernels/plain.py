"""The steps of an encoder that a GPU can fuse, as plain formulas for any device and dtype.

`fused` has functions of the same names, each one launch of a kernel in Triton.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class RmsNorm(nn.RMSNorm):
    """A norm by the root mean square, without a mean and a bias (Zhang and Sennrich 2019,
    arXiv:1910.07467). It is computed in float32; its result has the dtype of the weight.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed rows; x: (..., width), in any float dtype."""
        weight = self.weight
        normed = functional.rms_norm(x.float(), weight.shape, weight.float(), self.eps)
        return normed.to(weight.dtype)


def rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate queries and keys in place, in float32.

    x: queries and keys, (T, 2, heads, head_dim). The values i of a head's two halves make a pair.
    cos, sin: of each token's angles, (T, 1, 1, head_dim / 2) float32.
    """
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned = (first * cos).sub_(second * sin), (second * cos).add_(first * sin)
    first.copy_(turned[0])
    second.copy_(turned[1])


def add_norm(x: Tensor, branch: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return x + branch, in the memory of one of them, and norm(x + branch).

    x and branch: (T, width), in one dtype, or x in float32, which the sum then has too. norm:
    nn.LayerNorm, RmsNorm, or nn.Identity.
    """
    total = branch.add_(x) if branch.dtype == x.dtype else x.add_(branch)
    return total, norm(total)


def pool(rows: Tensor, spans: Sequence[tuple[int, int]], largest: bool) -> Tensor:
    """Return one row for each span: (B, D) float32, on the device of `rows`.

    rows: (T, D) of a packed batch, in any float dtype. spans: (start, stop) of rows, `stop`
    excluded; rows outside a span do not change the span's row. largest: take the maximum of the
    span's rows, NaN if a value is NaN; otherwise their mean, summed in float32.
    """
    pooled = rows.new_empty((len(spans), rows.shape[1]), dtype=torch.float32)
    for number, (start, stop) in enumerate(spans):
        if largest:
            pooled[number] = rows[start:stop].amax(0)
        else:
            torch.mean(rows[start:stop], dim=0, dtype=torch.float32, out=pooled[number])
    return pooled
