"""From token rows to one row a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqembed.inference.batches import PackedWindow
from seqembed.settings.request import Pooling

Float32s = NDArray[np.float32]


def pooled_span(piece: PackedWindow, pooling: Pooling, pools_specials: bool) -> tuple[int, int]:
    """The rows of a packed batch that are pooled for a piece.

    pools_specials: the sequence's first and last special token count, as the model's authors do.
    """
    if pooling == "cls":
        return piece.start - 1, piece.start
    if pools_specials:
        return piece.start - piece.first, piece.stop + piece.last
    return piece.start, piece.stop


def pool(rows: Tensor, spans: Sequence[tuple[int, int]], pooling: Pooling) -> Tensor:
    """Pool each span of rows (T, D) into one of (B, D) float32.

    Each is a function of its own span's rows alone.
    """
    pooled = rows.new_empty((len(spans), rows.shape[1]), dtype=torch.float32)
    for number, (start, stop) in enumerate(spans):
        if pooling == "max":
            pooled[number] = rows[start:stop].amax(0)
        else:
            torch.mean(rows[start:stop], dim=0, dtype=torch.float32, out=pooled[number])
    return pooled


class WindowPool:
    """Puts the pooled rows of windows together, in order, to one row a sequence.

    The mean of a sequence is that of its windows' means, weighted by their rows, in float64: of
    one window it is that window's, to the bit.
    """

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._total: Any = None
        self._count = 0

    def add(
        self, pieces: Sequence[PackedWindow], spans: Sequence[tuple[int, int]], pooled: Float32s
    ) -> tuple[NDArray[np.int64], Float32s]:
        """Take the (B, D) rows of pieces; return the (n,) positions that are whole, (n, D) rows."""
        positions = [piece.position for piece in pieces if piece.last]
        rows = np.empty((len(positions), pooled.shape[1]), np.float32)
        done = 0
        for piece, (start, stop), row in zip(pieces, spans, pooled, strict=True):
            if not (piece.first and piece.last):
                self._take(piece, row, stop - start)
            if piece.last:
                rows[done] = row if piece.first else self._whole()
                done += 1
        return np.array(positions, np.int64), rows

    def _take(self, piece: PackedWindow, row: NDArray[Any], count: int) -> None:
        """Add a window's row, which stands for `count` token rows."""
        if self._pooling == "mean":
            row = row.astype(np.float64) * count
        if piece.first:
            self._total, self._count = row.copy(), count
        elif self._pooling == "mean":
            self._total += row
            self._count += count
        elif self._pooling == "max":
            np.maximum(self._total, row, out=self._total)

    def _whole(self) -> Any:
        return self._total / self._count if self._pooling == "mean" else self._total
