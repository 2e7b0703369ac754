"""Read rows, and token rows, from several arrays on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ShardError

CHANGED = "was cut or replaced while it was read; run again, or open it again"
PART_BYTES = 16 << 20
# Into stretches of how many bytes an array is cut, so that one of them stays in a CPU's cache; and
# how many rows of a stretch may be read for each row that is wanted.
STRETCH_BYTES, SPARSE = 1 << 20, 2
# How many rows are read of a map before its pages are given back.
MAPPED_AT_ONCE = 256


class MappedRows(np.memmap[Any, np.dtype[np.floating]]):
    """Rows mapped from a file. inode: that file's; None for a view of the rows.

    NumPy gives a view the offset of the whole map, so a view cannot be read from the file.
    """

    inode: int | None = None


def map_rows(
    path: Path, dtype: np.dtype[np.floating], offset: int, shape: tuple[int, ...]
) -> NDArray[np.floating]:
    """Map an array (n, D) that begins at `offset` in the file; OSError if that fails.

    An array without values cannot be mapped, and is made anew.
    """
    if 0 in shape:
        return np.empty(shape, dtype)
    with open(str(path), "rb") as file:
        rows = MappedRows(file, dtype, "r", offset, shape)
        rows.inode = os.fstat(file.fileno()).st_ino
    return rows


class RowPool:
    """The rows of several arrays, numbered from 0 in one count over all arrays.

    arrays: (n_i, D) each, float32 or float16. width: D. storage: the dtype of the rows that are
    taken. Raises ShardError for an array of another width.
    """

    def __init__(self, arrays: Sequence[NDArray[np.floating]], width: int, storage: str) -> None:
        self._arrays, self.width, self._storage = arrays, width, storage
        self._starts = np.cumsum([0, *map(len, arrays)])
        for array in arrays:
            if array.shape[1] != width:
                name = getattr(array, "filename", None) or "rows in memory"
                raise ShardError(f"{name}: {array.shape[1]:,} values a row, not {width:,}")

    def take(self, places: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return n rows, (n, D) of the dtype `storage`. places: their numbers, (n,) int64.

        Raises IndexError if a number has no row, and ShardError if a file cannot be read, or was
        cut or replaced since it was mapped.
        """
        if ((places < 0) | (places >= self._starts[-1])).any():
            raise IndexError(f"the number of a row is not from 0 to {self._starts[-1] - 1:,}")
        rows: NDArray[np.floating] = np.empty((len(places), self.width), self._storage)
        order = np.argsort(places, kind="stable")
        owners = np.searchsorted(self._starts, places[order], side="right") - 1
        for owner in np.unique(owners):
            mine, array = order[owners == owner], self._arrays[owner]
            _fill(rows, mine, array, places[mine] - self._starts[owner])
        return rows


def _fill(
    rows: NDArray[np.floating],
    places: NDArray[np.int64],
    array: NDArray[np.floating],
    wanted: NDArray[np.int64],
) -> None:
    """Put n rows of an array into `rows`: from the file that it maps, if that has a name.

    A map is slower, and what was read of it counts as this process's memory, with 64 KB and more
    around each row. places: in `rows`, (n,). wanted: the rows' numbers in the array, (n,),
    ascending.
    """
    if isinstance(array, MappedRows) and (file := _open(array)):
        with file:
            if array.dtype == rows.dtype:
                _read(file, array, wanted, rows, places)
            else:
                found = np.empty((len(wanted), array.shape[1]), array.dtype)
                _read(file, array, wanted, found, np.arange(len(wanted)))
                rows[places] = found
        return
    for start in range(0, len(wanted), MAPPED_AT_ONCE):
        part = slice(start, start + MAPPED_AT_ONCE)
        rows[places[part]] = array[wanted[part]]
        if isinstance(array.base, mmap):
            array.base.madvise(MADV_DONTNEED)


def _open(array: MappedRows) -> IO[bytes] | None:
    """Open the file that an array maps; None if the array is a view, or the file was removed."""
    if array.inode is not None:
        with suppress(FileNotFoundError):
            return open(str(array.filename), "rb", buffering=0)
    return None


def _read(
    file: IO[bytes],
    array: MappedRows,
    wanted: NDArray[np.int64],
    rows: NDArray[np.floating],
    places: NDArray[np.int64],
) -> None:
    """Read n rows of a mapped array from its file into `rows`, of the same dtype and width.

    wanted: the rows' numbers in the array, (n,), ascending. places: in `rows`, (n,). Raises
    ShardError if the file was replaced, cannot be read, or ends too early.
    """
    if os.fstat(file.fileno()).st_ino != array.inode:
        raise ShardError(f"{file.name}: {CHANGED}")
    size = array[:1].nbytes
    starts, stops, close = _find_stretches(wanted, size)
    for start, stop in zip(starts[close].tolist(), stops[close].tolist(), strict=True):
        low, high = int(wanted[start]), int(wanted[stop - 1]) + 1
        block = np.empty((high - low, array.shape[1]), array.dtype)
        _read_into(file, [block.data.cast("B")], [array.offset + low * size])
        rows[places[start:stop]] = block[wanted[start:stop] - low]
    scattered = np.repeat(~close, stops - starts)
    into, begins = rows.data.cast("B"), (places[scattered] * size).tolist()
    parts = (into[begin : begin + size] for begin in begins)
    _read_into(file, parts, (array.offset + wanted[scattered] * size).tolist())


def _read_into(file: IO[bytes], buffers: Iterable[memoryview], offsets: Iterable[int]) -> None:
    """Fill each buffer from the file's bytes at its offset; ShardError if that fails."""
    descriptor = file.fileno()
    try:
        for buffer, offset in zip(buffers, offsets, strict=True):
            done = 0
            while done < len(buffer):
                count = os.preadv(descriptor, [buffer[done:]], offset + done)
                if not count:
                    raise ShardError(f"{file.name}: {CHANGED}")
                done += count
    except OSError as error:
        raise ShardError(f"{file.name}: cannot be read ({error}); check the disk") from error


def _find_stretches(
    wanted: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Cut n wanted rows of an array into k stretches of STRETCH_BYTES of that array.

    wanted: the rows' numbers, (n,), ascending. size: bytes of a row. Returns where in `wanted` each
    stretch begins and ends, (k,) each, and whether several rows of it lie close together, (k,).
    """
    stretches = wanted // max(1, STRETCH_BYTES // size)
    cuts = np.flatnonzero(np.diff(stretches)) + 1
    starts, stops = np.append(0, cuts), np.append(cuts, len(wanted))
    spans = wanted[stops - 1] + 1 - wanted[starts]
    counts = stops - starts
    return starts, stops, (counts > 1) & (spans <= SPARSE * counts)


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
