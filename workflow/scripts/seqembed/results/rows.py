"""Read rows, and token rows, from several arrays on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from mmap import MADV_DONTNEED, mmap

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ShardError

PART_BYTES = 16 << 20
# How many bytes of rows are read at once, so that these stay in a CPU's cache; and how many rows
# may be read for each row that is wanted.
READ_BYTES, SPARSE = 1 << 20, 2
# How many rows that lie far apart are read of a map before its pages are given back.
SCATTERED_AT_ONCE = 2048


class RowPool:
    """The rows of several arrays, numbered from 0 in one count over all arrays.

    arrays: (n_i, D) each, of the dtype `storage`, float32 or float16. width: D.
    """

    def __init__(self, arrays: Sequence[NDArray[np.floating]], width: int, storage: str) -> None:
        self._arrays, self.width, self._storage = arrays, width, storage
        self._inodes = [_inode(array) for array in arrays]
        self._starts = np.cumsum([0, *map(len, arrays)])

    def take(self, places: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return n rows, (n, D) of the dtype `storage`. places: their numbers, (n,) int64.

        Raises IndexError if a number has no row, and ShardError if a file was cut short or replaced
        since the pool was made.
        """
        if ((places < 0) | (places >= self._starts[-1])).any():
            raise IndexError(f"the number of a row is not from 0 to {self._starts[-1] - 1:,}")
        rows: NDArray[np.floating] = np.empty((len(places), self.width), self._storage)
        order = np.argsort(places, kind="stable")
        owners = np.searchsorted(self._starts, places[order], side="right") - 1
        for owner in np.unique(owners):
            mine = order[owners == owner]
            wanted, array = places[mine] - self._starts[owner], self._arrays[owner]
            starts, stops, close = _find_stretches(array, wanted)
            close &= self._inodes[owner] is not None
            scattered = np.repeat(~close, stops - starts)
            rows[mine[scattered]] = _look_up(array, wanted[scattered])
            for start, stop in zip(starts[close].tolist(), stops[close].tolist(), strict=True):
                rows[mine[start:stop]] = _read(array, wanted[start:stop], self._inodes[owner])
        return rows


def _inode(array: NDArray[np.floating]) -> int | None:
    """Return the inode of the file that a whole np.memmap maps; None for any other array.

    A view of a map gives None, too: its attribute `offset` is that of the whole map. So does a map
    whose file was removed: its rows are still there, in the map.
    """
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap):
        return None
    with suppress(FileNotFoundError):
        return None if array.filename is None else os.stat(array.filename).st_ino
    return None


def _find_stretches(
    array: NDArray[np.floating], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Cut n wanted rows into k stretches of READ_BYTES of the array.

    wanted: the rows' numbers, (n,), ascending. Returns where in `wanted` each stretch begins and
    ends, (k,) each, and whether its rows lie close together, (k,).
    """
    stretches = wanted // max(1, READ_BYTES // array[:1].nbytes)
    cuts = np.flatnonzero(np.diff(stretches)) + 1
    starts, stops = np.append(0, cuts), np.append(cuts, len(wanted))
    spans = wanted[stops - 1] + 1 - wanted[starts]
    return starts, stops, spans <= SPARSE * (stops - starts)


def _look_up(array: NDArray[np.floating], wanted: NDArray[np.int64]) -> NDArray[np.floating]:
    """Return rows that lie far apart, (n, D), through the array's map."""
    if not isinstance(array.base, mmap):
        return array[wanted]
    found = np.empty((len(wanted), array.shape[1]), array.dtype)
    for start in range(0, len(wanted), SCATTERED_AT_ONCE):
        part = slice(start, start + SCATTERED_AT_ONCE)
        found[part] = array[wanted[part]]
        # What was read of a map counts as this process's memory, with 64 KB around each row.
        array.base.madvise(MADV_DONTNEED)
    return found


def _read(
    array: NDArray[np.floating], wanted: NDArray[np.int64], inode: int | None
) -> NDArray[np.floating]:
    """Return n rows that lie close together, (n, D); ShardError if a read fails.

    wanted: the rows' numbers, ascending. inode: of the file that the array maps. The rows are read
    from that file, because a map is slower.
    """
    low, high = int(wanted[0]), int(wanted[-1]) + 1
    assert isinstance(array, np.memmap) and array.filename is not None
    count, offset = (high - low) * array.shape[1], array.offset + low * array[:1].nbytes
    try:
        with open(array.filename, "rb") as file:
            block = np.fromfile(file, array.dtype, count, offset=offset)
            same = os.fstat(file.fileno()).st_ino == inode
    except FileNotFoundError:
        return _look_up(array, wanted)
    # np.fromfile returns fewer values, and raises no error, if the disk fails.
    if len(block) < count or not same:
        raise ShardError(f"{array.filename}: was cut or replaced during the run; run again")
    return block.reshape(-1, array.shape[1])[wanted - low]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenRows:
    """The token rows of N sequences, in order.

    offsets: (N + 1,) int64; the token rows of sequence i are those from offsets[i] to
    offsets[i + 1]. parts: all token rows, in arrays (m, D); perhaps an iterator, to be used once.
    """

    offsets: NDArray[np.int64]
    parts: Iterable[NDArray[np.floating]]


class TokenRowPool:
    """The token rows of several arrays; one count from 0 numbers the sequences of all arrays.

    arrays: (m_i, D) each. offsets: for each array, (n_i + 1,) int64, where the token rows of its
    n_i sequences begin and end.
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
        """Return the token rows of n sequences, to be read later; places: their numbers, (n,)."""
        offsets = np.append(0, self._counts[places].cumsum())
        return TokenRows(offsets=offsets, parts=self.parts(places))

    def parts(self, places: NDArray[np.int64]) -> Iterator[NDArray[np.floating]]:
        """Yield the token rows of n sequences in parts; places: their numbers, (n,), in order.

        A part is (m, D), of one sequence and of at most PART_BYTES; a single row may be larger.
        """
        for place in places.tolist():
            array, begin = self._arrays[self._owners[place]], self._begins[place]
            end = begin + self._counts[place]
            step = max(1, PART_BYTES // array[:1].nbytes) if len(array) else 1
            for start in range(begin, end, step):
                yield array[start : min(start + step, end)]
