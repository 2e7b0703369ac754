"""Pools token rows into one row a sequence."""

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


def pooled_span(window: PackedWindow, pooling: Pooling, pools_specials: bool) -> tuple[int, int]:
    """Return the rows of a packed batch to pool for a window: first, and one after the last.

    pools_specials: the sequence's first and last special token count, as for the model's authors.
    """
    if pooling == "cls":
        return window.start - 1, window.start
    if pools_specials:
        return window.start - window.first, window.stop + window.last
    return window.start, window.stop


def pool(rows: Tensor, spans: Sequence[tuple[int, int]], pooling: Pooling) -> Tensor:
    """Return (B, D) float32: each span of `rows` (T, D) pooled, whatever other rows hold."""
    pooled = rows.new_empty((len(spans), rows.shape[1]), dtype=torch.float32)
    for number, (start, stop) in enumerate(spans):
        if pooling == "max":
            pooled[number] = rows[start:stop].amax(0)
        else:
            torch.mean(rows[start:stop], dim=0, dtype=torch.float32, out=pooled[number])
    return pooled


class WindowPool:
    """Joins the pooled rows of windows, which come in order, to one row per sequence.

    The mean of a sequence of several windows is the mean, in float64, of the windows' means,
    weighted by how many rows each was pooled from. A single window's row stays as it is.
    """

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._total: Any = None
        self._count = 1

    def add(
        self, windows: Sequence[PackedWindow], spans: Sequence[tuple[int, int]], pooled: Float32s
    ) -> tuple[NDArray[np.int64], Float32s]:
        """Take the (B, D) rows of windows; return (n,) positions and (n, D) rows of sequences.

        These are the sequences of which all windows have come.
        """
        finished = []
        for window, (start, stop), row in zip(windows, spans, pooled, strict=True):
            if not (window.first and window.last):
                self._take(window, row, stop - start)
            if window.last:
                finished.append(row if window.first else self._total / self._count)
        positions = np.array([window.position for window in windows if window.last], np.int64)
        return positions, np.array(finished, np.float32).reshape(-1, pooled.shape[1])

    def _take(self, window: PackedWindow, row: NDArray[Any], count: int) -> None:
        """Add a window's row, pooled from `count` token rows."""
        if self._pooling == "mean":
            row = row.astype(np.float64) * count
            self._count = count if window.first else self._count + count
        if window.first:
            self._total = row.copy()
        elif self._pooling == "mean":
            self._total += row
        elif self._pooling == "max":
            np.maximum(self._total, row, out=self._total)
