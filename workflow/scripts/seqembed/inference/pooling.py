"""Pool the rows of a sequence's tokens into one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.inference.batches import PackedWindow
from seqembed.models.vocabularies import Specials
from seqembed.settings.request import Pooling

Float32s = NDArray[np.float32]


def pooled_span(
    window: PackedWindow, pooling: Pooling, specials: Specials, pools_specials: bool
) -> tuple[int, int]:
    """Return which rows of a packed batch are pooled for a window: start and stop, stop excluded.

    specials: how many special tokens a sequence has. pools_specials: mean and maximum include them.
    `cls` takes the row of the first one, if this is the sequence's first window.
    """
    if pooling == "cls":
        return window.start - specials.before, window.start - specials.before + 1
    if pools_specials:
        before, after = specials.before * window.first, specials.after * window.last
        return window.start - before, window.stop + after
    return window.start, window.stop


class WindowPool:
    """Joins the pooled rows of a sequence's windows into the sequence's row.

    Windows come in order. The mean of several windows is the float64 mean of the windows' means,
    weighted by the number of rows that each window pools. `cls` takes the first window's row. If a
    sequence has one window, that window's row is the sequence's row, unchanged.
    """

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._total: Any = None
        self._count = 1

    def add(
        self, windows: Sequence[PackedWindow], spans: Sequence[tuple[int, int]], pooled: Float32s
    ) -> tuple[NDArray[np.int64], Float32s]:
        """Add the pooled rows of windows; return the sequences that these windows complete.

        spans: of the windows, as pooled_span returns them. pooled: (B, D), of the windows. The
        result is the sequences' rows in the shard, (n,) int64, and pooled rows, (n, D) float32.
        """
        lasts = [number for number, window in enumerate(windows) if window.last]
        rows = pooled[lasts]
        for number, window in enumerate(windows):
            if not (window.first and window.last):
                self._join(window, spans[number], pooled[number])
                if window.last:
                    rows[lasts.index(number)] = self._total / self._count
        return np.array([windows[number].position for number in lasts], np.int64), rows

    def _join(self, window: PackedWindow, span: tuple[int, int], row: NDArray[Any]) -> None:
        """Add the pooled row of a window to those of its sequence's earlier windows."""
        start, stop = span
        if self._pooling == "mean":
            row = row.astype(np.float64) * (stop - start)
            self._count = stop - start + (0 if window.first else self._count)
        if window.first:
            self._total = row.copy()
        elif self._pooling == "mean":
            self._total += row
        elif self._pooling == "max":
            np.maximum(self._total, row, out=self._total)
