"""Rows that lie in several arrays on disk, found by digest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class DigestIndex:
    """Finds digests among (n, 16) uint8 ones, in 24 bytes of memory each."""

    def __init__(self, digests: NDArray[np.uint8]) -> None:
        keys = _keys(digests)
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def find(self, digests: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The place of each of (n, 16) digests, (n,) int64; -1 where it is not there."""
        keys = _keys(digests)
        if not len(self._sorted):
            return np.full(len(keys), -1, np.int64)
        places = np.searchsorted(self._sorted, keys).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[places] == keys, self._order[places], -1)


def count_distinct(digests: NDArray[np.uint8]) -> int:
    """How many different ones are among (n, 16) digests."""
    return len(np.unique(_keys(digests)))


class RowPool:
    """Rows of `arrays`, each (n_i, D), numbered through."""

    def __init__(self, arrays: Sequence[NDArray[np.floating]], width: int) -> None:
        self._arrays, self._width = arrays, width
        self._starts = np.cumsum([0, *map(len, arrays)])

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows at these places, (n, D) float32; raises IndexError for one that is not there."""
        rows = np.empty((len(places), self._width), np.float32)
        owners = np.searchsorted(self._starts, places, side="right") - 1
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            rows[mine] = self._arrays[owner][places[mine] - self._starts[owner]]
        return rows


def _keys(digests: NDArray[np.uint8]) -> NDArray[np.void]:
    # One value a digest: these compare, sort and search as memory does.
    return np.ascontiguousarray(digests).view("V16").reshape(-1)
