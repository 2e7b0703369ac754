"""Gathers finished rows, and writes them as checkpoint blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import map_rows, write_next_block
from seqembed.checkpoints.token_rows import ResidueFile, ResidueSpool
from seqembed.inference.batches import PackedBatch
from seqembed.inference.runner import BatchRows

# More rows than this are written before their time, so that memory is bounded.
MAX_WAITING_BYTES = 64 << 20


class _WaitingRows:
    """The rows of `batches` batches that no block holds yet, in two arrays that are kept.

    A small array for each batch would lie between the tensors of the next ones, and keep these from
    joining when they are freed: memory would grow with every batch.
    """

    def __init__(self) -> None:
        self._positions, self._rows = np.empty(0, np.int64), np.empty((0, 0), np.float32)
        self._flags = np.empty(0, np.uint8)
        self._count, self.batches = 0, 0

    def __len__(self) -> int:
        return self._count

    @property
    def positions(self) -> NDArray[np.int64]:
        """(n,), in the order in which they came."""
        return self._positions[: self._count]

    @property
    def rows(self) -> NDArray[np.floating]:
        """(n, D), row i belonging to position i."""
        return self._rows[: self._count]

    @property
    def flags(self) -> NDArray[np.uint8]:
        """(n,), of each."""
        return self._flags[: self._count]

    def add(
        self,
        positions: NDArray[np.int64],
        rows: NDArray[np.floating],
        flags: NDArray[np.uint8],
    ) -> None:
        """Copy a batch's (m,) positions, (m, D) rows and (m,) flags."""
        end = self._count + len(rows)
        if end >= len(self._rows):
            self._grow(2 * end, rows)
        self._positions[self._count : end], self._rows[self._count : end] = positions, rows
        self._flags[self._count : end] = flags
        self._count, self.batches = end, self.batches + 1

    def _grow(self, capacity: int, like: NDArray[np.floating]) -> None:
        held = self.positions, self.rows, self.flags
        self._positions, self._flags = np.empty(capacity, np.int64), np.empty(capacity, np.uint8)
        self._rows = np.empty((capacity, like.shape[1]), like.dtype)
        if self._count:
            self._positions[: self._count], self._rows[: self._count] = held[:2]
            self._flags[: self._count] = held[2]

    def clear(self) -> None:
        self._count, self.batches = 0, 0


class CheckpointWriter:
    """Gathers the rows of finished batches and writes them as a block whenever one is due.

    digests: (N, 16), flags: (N,) and wanted: (N,) bool of all rows of the shard; rows that are not
    wanted are there already. per_residue: token rows are kept, too. check: called before each
    block; it raises where the rows are not to be trusted. `ids` and `blocks` grow with each block:
    hex digests, and for each block its (n, D) rows, left on disk. `written` is the clock's time of
    the last one, or None; `spent` are the clock's seconds that all took together.
    """

    def __init__(
        self,
        folder: Path,
        *,
        digests: NDArray[np.uint8],
        flags: NDArray[np.uint8],
        wanted: NDArray[np.bool_],
        per_residue: bool,
        sequences: int,
        seconds: float,
        check: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._sequences, self._seconds = folder, sequences, seconds
        self._digests, self._flags, self._wanted = digests, flags, wanted
        self._check, self._clock, self._began = check, clock, clock()
        self._waiting = _WaitingRows()
        self._spool = ResidueSpool(folder) if per_residue else None
        self._sealed: ResidueFile | None = None
        self.ids: list[str] = []
        self.blocks: list[NDArray[np.floating]] = []
        self.written: float | None = None
        self.spent = 0.0

    def make_room(self, batches: Iterable[PackedBatch]) -> Iterator[PackedBatch]:
        """Pass batches on to be computed; before one that would be too much to lose with what has
        gathered, this is written.
        """
        for batch in batches:
            if len(self._waiting) + len(batch.positions) > self._sequences:
                self.write()
            yield batch

    def add(self, batch: BatchRows) -> int:
        """Take a batch's rows; return how many sequences of it were wanted and are whole.

        What has gathered is written when there are enough sequences, bytes or seconds.
        """
        if self._spool:
            self._spool.drop(batch.given_up)
            for position, residues in batch.residues:
                if self._wanted[position]:
                    self._spool.add(position, residues)
        wanted = self._wanted[batch.positions]
        # A batch without a whole sequence is a part of one that spans several.
        if len(batch.positions):
            self._waiting.add(batch.positions[wanted], batch.rows[wanted], batch.flags[wanted])
            if self._due():
                self.write()
        return int(wanted.sum())

    def _due(self) -> bool:
        sequences, size = len(self._waiting), self._waiting.rows.nbytes
        since = self._began if self.written is None else self.written
        late = self._clock() - since >= self._seconds
        return sequences >= self._sequences or size >= MAX_WAITING_BYTES or late

    def write(self) -> None:
        """Write what has gathered, if anything has; not between the parts of a sequence, whose
        token rows are in one block.
        """
        if not self._spool or self._spool.sequences == len(self._waiting):
            self._write()

    def _write(self) -> None:
        if not self._waiting.batches:
            return
        self._check()
        begin = self._clock()
        positions = self._waiting.positions
        digests = self._digests[positions]
        # A block that could not be written is tried again, with the token rows of the first try.
        if self._spool and not self._sealed:
            self._sealed = self._spool.seal(positions.tolist())
        path = write_next_block(
            self._folder,
            digests,
            self._waiting.rows,
            self._flags[positions] | self._waiting.flags,
            batches=self._waiting.batches,
            residues=self._sealed,
        )
        self._waiting.clear()
        self._sealed = None
        self.ids += [digest.tobytes().hex() for digest in digests]
        self.blocks.append(map_rows(path))
        self.written = self._clock()
        self.spent += self.written - begin

    def close(self) -> None:
        """Write what has gathered, and remove what is of no whole sequence."""
        try:
            self._write()
        finally:
            if self._spool:
                self._spool.discard()
