"""Read the ids and rows of a result for an export, and compute a checksum of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from seqembed.errors import ConfigError, ExportError
from seqembed.machine.prefetch import prefetch
from seqembed.machine.screen import Report, no_report
from seqembed.results.reader import EmbeddingsFile, open_embeddings
from seqembed.results.rows import RowPool
from seqembed.results.seal import read_seal

Rows = NDArray[np.floating]
# n ids, and their rows, (n, D); of token rows, one id and its part of them, (m, D).
Slab = tuple[list[str], Rows]

SLABS_AHEAD = 1
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


class Checksum:
    """Checksums of ids and of rows, each in order; where slabs begin and end changes nothing.

    count_rows: called for each slab that is added, with the number of rows that were added so far.
    """

    def __init__(self, count_rows: Callable[[int], None]) -> None:
        self._ids, self._rows = xxhash.xxh3_128(), xxhash.xxh3_128()
        self._count_rows, self._count = count_rows, 0

    def add(self, slab: Slab) -> None:
        ids, rows = slab
        self._count += len(rows)
        self._count_rows(self._count)
        # No id holds a NUL.
        self._ids.update("".join(f"{name}\0" for name in ids).encode())
        if rows.size:
            self._rows.update(np.ascontiguousarray(rows).data.cast("B"))

    def digest(self) -> bytes:
        """Return 32 bytes."""
        return self._ids.digest() + self._rows.digest()


class Result:
    """A result that is exported.

    file: the result, checked. dtype: of the exported rows, float32 or float16. seal: the line in
    the result that tells it from results of other content. checksum: of all that was read so far.
    report: told which share of the export is done. slab_bytes: the most bytes of exported rows that
    are read at once; a single row may be larger.
    """

    slab_bytes = 16 << 20

    def __init__(self, file: EmbeddingsFile, dtype: str, report: Report = no_report) -> None:
        self.file, self.dtype = file, np.dtype(dtype)
        self.seal, self.checksum = read_seal(file.path), Checksum(partial(self._report_half, 0))
        self._stored = file.rows.dtype.name
        self._report, self._total = report, file.count

    def describe(self) -> dict[str, str | int]:
        """Return the attributes of the result, and its seal as `result_seal`."""
        return self.file.attributes | {"result_seal": self.seal}

    def count_at_once(self, size: int) -> int:
        """Return how many exported rows have at most `size` bytes, but at least 1."""
        row_bytes: int = self.dtype.itemsize * max(1, self.file.width)
        return max(1, size // row_bytes)

    def bounds(self, size: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the (start, stop) of slabs of at most `size` bytes, or slab_bytes, of rows each."""
        step = self.count_at_once(size or self.slab_bytes)
        for start in range(0, self.file.count, step):
            yield start, min(start + step, self.file.count)

    def ids(self) -> Iterator[str]:
        """Yield all ids."""
        for start, stop in self.bounds():
            yield from self.file.ids(start, stop)

    def readback_checksum(self) -> Checksum:
        """Return a checksum for what is read back, which reports the second half of the export."""
        return Checksum(partial(self._report_half, 1))

    def require_token_rows(self) -> None:
        """Raise ExportError if the result has no token rows."""
        if self.file.residues is None:
            advice = "set `embedding: {per_residue: true}` and run again"
            raise ExportError(f"{self.file.path}: has no rows of residues; {advice}")

    def slabs(self, size: int | None = None) -> Iterator[Slab]:
        """Yield all ids with their rows, in slabs of at most `size` bytes, or slab_bytes, of rows.

        Raises ConfigError for a value that does not fit into float16, ShardError if the file was
        cut or replaced.
        """
        return prefetch(self._read(size), SLABS_AHEAD)

    def token_rows(self) -> Iterator[tuple[str, int, Iterator[Rows]]]:
        """Yield each id with the number of its token rows, and these in parts, (m, D).

        Each sequence's parts have to be used before the next one is asked for. Raises ExportError
        if the result has no token rows, and the errors of `slabs`.
        """
        self.require_token_rows()
        offsets = self.file.offsets()
        self._total = int(offsets[-1])
        read = self._token_reader(offsets)
        for start, stop in self.bounds():
            ends = offsets[start : stop + 1].tolist()
            for name, (begin, end) in zip(self.file.ids(start, stop), pairwise(ends), strict=True):
                self.checksum.add(([name], np.empty((0, self.file.width), self.dtype)))
                yield name, end - begin, self._parts(read, begin, end)

    def _report_half(self, half: int, rows: int) -> None:
        """Report that `rows` are written (half 0), or that all are and `rows` are read back (1)."""
        share = (half + rows / max(1, self._total)) / 2
        self._report(share, int(share * self.file.count))

    def _read(self, size: int | None) -> Iterator[Slab]:
        pool = RowPool([self.file.rows], self.file.width, self._stored)
        for start, stop in self.bounds(size):
            ids = self.file.ids(start, stop)
            rows = self._convert(pool.take(np.arange(start, stop)), ids.__getitem__)
            self.checksum.add((ids, rows))
            yield ids, rows

    def _token_reader(self, offsets: NDArray[np.int64]) -> Callable[[int, int], Rows]:
        """Return a function that gives the first of the token rows from `begin` to `end`, (m, D).

        Rows are read a slab at a time: most sequences are shorter than one.
        """
        pool = RowPool([cast(Rows, self.file.residues)], self.file.width, self._stored)
        step = self.count_at_once(self.slab_bytes)
        first, slab = 0, np.empty((0, self.file.width), self.dtype)

        def read(begin: int, end: int) -> Rows:
            nonlocal first, slab
            if not first <= begin < first + len(slab):
                first = begin
                rows = pool.take(np.arange(begin, min(begin + step, int(offsets[-1]))))
                slab = self._convert(rows, lambda row: self._owner(offsets, begin + row))
            return slab[begin - first : end - first]

        return read

    def _parts(self, read: Callable[[int, int], Rows], begin: int, end: int) -> Iterator[Rows]:
        while begin < end:
            part = read(begin, end)
            self.checksum.add(([], part))
            yield part
            begin += len(part)

    def _owner(self, offsets: NDArray[np.int64], row: int) -> str:
        """Return the id whose token row this is."""
        place = int(np.searchsorted(offsets, row, "right")) - 1
        return self.file.ids(place, place + 1)[0]

    def _convert(self, rows: Rows, owner: Callable[[int], str]) -> Rows:
        """Return (n, D) rows in the export's dtype; owner: gives the id of a row by its number."""
        if rows.dtype == self.dtype:
            return rows
        # Two passes without a copy; float16 would make larger values infinite.
        narrower = self.dtype == np.float16 and rows.size
        if narrower and max(rows.max(), -rows.min()) > LARGEST_FLOAT16:
            self._refuse_large(rows, owner)
        return rows.astype(self.dtype)

    def _refuse_large(self, rows: Rows, owner: Callable[[int], str]) -> None:
        row, column = map(int, np.unravel_index(np.abs(rows).argmax(), rows.shape))
        found = f"a value of {owner(row)!r} is {rows[row, column]:,.0f}"
        limit = f"and float16 ends at {LARGEST_FLOAT16:,.0f}"
        raise ConfigError(f"{self.file.path}: {found}, {limit}; set `exports: {{dtype: float32}}`")


@contextmanager
def open_result(path: Path, dtype: str, report: Report = no_report) -> Iterator[Result]:
    """Check every byte of a result, then open it for an export with rows of `dtype`.

    report: told which share of the export is done. Raises ShardError if the result is damaged or
    cannot be read, and ExportError if it is a shard.
    """
    with open_embeddings(path) as file:
        if file.attributes.get("kind") == "shard":
            raise ExportError(f"{path}: is a shard; name the dataset's embeddings.h5")
        yield Result(file, dtype, report)


def compare(path: Path, result: Result, found: Iterable[Slab]) -> None:
    """Raise ExportError unless `found`, read back from an export, is what was read of its result.

    path: the export's final name.
    """
    checksum = result.readback_checksum()
    try:
        for slab in found:
            checksum.add(slab)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        problem = f"what was written cannot be read back ({reason}); check the disk and run again"
        raise ExportError(f"{path}: {problem}") from error
    if checksum.digest() != result.checksum.digest():
        problem = "gave back other ids or values than were written; check the disk and run again"
        raise ExportError(f"{path}: {problem}")
