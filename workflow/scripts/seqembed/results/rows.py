"""Rows that lie in several arrays on disk, read a slab at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ShardError

PART_BYTES = 16 << 20
# Of rows read at once, few enough to stay in a cache; how many are read for each that is wanted.
READ_BYTES, SPARSE = 1 << 20, 2


class RowPool:
    """Rows of `arrays`, each (n_i, D) of dtype `storage`, numbered through."""

    def __init__(self, arrays: Sequence[NDArray[np.floating]], width: int, storage: str) -> None:
        self._arrays, self.width, self._storage = arrays, width, storage
        self._inodes = [_inode(array) for array in arrays]
        self._starts = np.cumsum([0, *map(len, arrays)])

    def take(self, places: NDArray[np.int64]) -> NDArray[np.floating]:
        """The rows at these places, (n, D).

        Raises IndexError for one that is not there, ShardError where a file is not what it was.
        """
        if ((places < 0) | (places >= self._starts[-1])).any():
            raise IndexError(f"a place is not among {self._starts[-1]:,} rows")
        rows: NDArray[np.floating] = np.empty((len(places), self.width), self._storage)
        order = np.argsort(places, kind="stable")
        owners = np.searchsorted(self._starts, places[order], side="right") - 1
        for owner in np.unique(owners):
            mine = order[owners == owner]
            wanted, array = places[mine] - self._starts[owner], self._arrays[owner]
            for start, stop in _neighbours(wanted, max(1, READ_BYTES // array[:1].nbytes)):
                rows[mine[start:stop]] = _read(array, wanted[start:stop], self._inodes[owner])
        return rows


def _neighbours(wanted: NDArray[np.int64], span: int) -> Iterator[tuple[int, int]]:
    """Cut ascending numbers of rows into (start, stop), each within `span` rows."""
    ends = np.flatnonzero(np.diff(wanted // span)) + 1
    return pairwise([0, *ends.tolist(), len(wanted)])


def _inode(array: NDArray[np.floating]) -> int | None:
    """Of the file that an array maps; None where it maps none.

    Only a whole map knows its own offset in the file: a view has that of its map.
    """
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap):
        return None
    return None if array.filename is None else os.stat(array.filename).st_ino


def _read(
    array: NDArray[np.floating], wanted: NDArray[np.int64], inode: int | None
) -> NDArray[np.floating]:
    """The rows of ascending numbers, by plain reads where an array's file has them side by side.

    Pages of a mapped file cost a fault each, and count as memory for as long as it is mapped.
    """
    low, high = int(wanted[0]), int(wanted[-1]) + 1
    if inode is None or high - low > SPARSE * len(wanted):
        return array[wanted]
    assert isinstance(array, np.memmap) and array.filename is not None
    count, offset = (high - low) * array.shape[1], array.offset + low * array[:1].nbytes
    with open(array.filename, "rb") as file:
        block = np.fromfile(file, array.dtype, count, offset=offset)
        # An error of the disk, too, ends a read early and is not raised.
        if len(block) < count or os.fstat(file.fileno()).st_ino != inode:
            raise ShardError(f"{array.filename}: cut short or replaced meanwhile; run again")
    return block.reshape(-1, array.shape[1])[wanted - low]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenRows:
    """The token rows of N sequences, in order, in parts; those of sequence i are the rows from
    offsets[i] to offsets[i + 1], (N + 1,) int64.
    """

    offsets: NDArray[np.int64]
    parts: Iterable[NDArray[np.floating]]


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

    def take(self, places: NDArray[np.int64]) -> TokenRows:
        """The token rows of these sequences, read as they are asked for."""
        offsets = np.append(0, self._counts[places].cumsum())
        return TokenRows(offsets=offsets, parts=self.parts(places))

    def parts(self, places: NDArray[np.int64]) -> Iterator[NDArray[np.floating]]:
        """The rows of these sequences, one after the other, in parts of at most PART_BYTES."""
        for place in places.tolist():
            array, begin = self._arrays[self._owners[place]], self._begins[place]
            end = begin + self._counts[place]
            step = max(1, PART_BYTES // array[:1].nbytes) if len(array) else 1
            for start in range(begin, end, step):
                yield array[start : min(start + step, end)]
