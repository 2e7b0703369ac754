"""Rows that lie in several arrays on disk, found by digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

PART_BYTES = 16 << 20


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


def first_rows(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The first row that has each row's digest, (n,) int64 of (n, 16)."""
    _, firsts, groups = np.unique(_keys(digests), return_index=True, return_inverse=True)
    return firsts[groups].astype(np.int64)


def digest_rows(keys: Iterable[bytes]) -> NDArray[np.uint8]:
    """n digests of 16 bytes as (n, 16) uint8."""
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)


class RowPool:
    """Rows of `arrays`, each (n_i, D) of dtype `storage`, numbered through."""

    def __init__(self, arrays: Sequence[NDArray[np.floating]], width: int, storage: str) -> None:
        self._arrays, self._width, self._storage = arrays, width, storage
        self._starts = np.cumsum([0, *map(len, arrays)])

    def take(self, places: NDArray[np.int64]) -> NDArray[np.floating]:
        """The rows at these places, (n, D); raises IndexError for one that is not there."""
        rows: NDArray[np.floating] = np.empty((len(places), self._width), self._storage)
        owners = np.searchsorted(self._starts, places, side="right") - 1
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            rows[mine] = self._arrays[owner][places[mine] - self._starts[owner]]
        return rows


class TokenRowPool:
    """The token rows of sequences, in several arrays on disk, each (m_i, D).

    offsets: for each array, (n_i + 1,) int64, where its sequences begin; sequences are numbered
    through.
    """

    def __init__(
        self, arrays: Sequence[NDArray[np.floating]], offsets: Sequence[NDArray[np.int64]]
    ) -> None:
        self._arrays = arrays
        self._owners = np.repeat(
            np.arange(len(arrays), dtype=np.int32), [len(o) - 1 for o in offsets]
        )
        self._begins = np.concatenate([np.empty(0, np.int64), *(o[:-1] for o in offsets)])
        self._counts = np.concatenate([np.empty(0, np.int64), *(np.diff(o) for o in offsets)])

    def offsets(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n + 1,) int64: where the rows of each begin if these are laid end to end."""
        return np.append(0, self._counts[places].cumsum())

    def parts(self, places: NDArray[np.int64]) -> Iterator[NDArray[np.floating]]:
        """The rows of these sequences, one after the other, in parts of at most PART_BYTES."""
        for place in places.tolist():
            array, begin = self._arrays[self._owners[place]], self._begins[place]
            end = begin + self._counts[place]
            step = max(1, PART_BYTES // array[:1].nbytes) if len(array) else 1
            for start in range(begin, end, step):
                yield array[start : min(start + step, end)]


def _keys(digests: NDArray[np.uint8]) -> NDArray[np.void]:
    # One value a digest: these compare, sort and search as memory does.
    return np.ascontiguousarray(digests).view("V16").reshape(-1)
