"""Collect finished rows, and write them as checkpoint blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import Block, read_block, write_next_block
from seqembed.checkpoints.token_rows import ResidueFile, ResidueSpool
from seqembed.inference.batches import PackedBatch
from seqembed.inference.runner import BatchRows

# When the waiting rows take this many bytes, a block is written before one is due.
MAX_WAITING_BYTES = 64 << 20


class CheckpointWriter:
    """Collects the rows of finished batches, and writes them as a block when one is due.

    digests, (N, 16) uint8, flags, (N,) uint8, and wanted, (N,) bool, are of all rows of the shard;
    rows that are not wanted are dropped. per_residue: keep token rows, too. A block is due after
    `sequences` or `seconds`. check: called before each block; raises if the rows must not be
    trusted. stored: blocks of this run that hold rows of the store. clock: returns seconds.

    ids: the hex digests of all rows in stored and written blocks. arrays: each block's (n, D) rows,
    on disk. computed: how many rows the writer wrote. written: the clock's time of the last block,
    None before the first. spent: the seconds that writing took.
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
        stored: Iterable[Block] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._sequences, self._seconds = folder, sequences, seconds
        self._digests, self._flags, self._wanted = digests, flags, wanted
        self._check, self._clock, self._began = check, clock, clock()
        # For each batch that is not in a block yet: its rows in the shard, values and flags.
        self._waiting: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
        self._count = self._bytes = 0
        self._spool = ResidueSpool(folder) if per_residue else None
        self._sealed: ResidueFile | None = None
        self.ids: list[str] = []
        self.arrays: list[NDArray[np.floating]] = []
        self.computed, self.spent = 0, 0.0
        self.written: float | None = None
        for block in stored:
            self._keep(block)

    def make_room(self, batches: Iterable[PackedBatch]) -> Iterator[PackedBatch]:
        """Yield batches; before a batch with which too many sequences would wait, write a block."""
        for batch in batches:
            if self._count + len(batch.positions) > self._sequences:
                self.write()
            yield batch

    def add(self, batch: BatchRows) -> int:
        """Add a batch; return how many wanted sequences it completes. Write a block if due."""
        if self._spool:
            self._spool.drop(batch.given_up)
            for position, residues in batch.residues:
                if self._wanted[position]:
                    self._spool.add(position, residues)
        wanted = self._wanted[batch.positions]
        # A batch that holds only a part of a sequence completes no sequence.
        if len(batch.positions):
            rows = batch.rows[wanted]
            self._waiting.append((batch.positions[wanted], rows, batch.flags[wanted]))
            self._count, self._bytes = self._count + len(rows), self._bytes + rows.nbytes
            since = self._began if self.written is None else self.written
            late = self._clock() - since >= self._seconds
            if self._count >= self._sequences or self._bytes >= MAX_WAITING_BYTES or late:
                self.write()
        return int(wanted.sum())

    def write(self) -> None:
        """Write the waiting rows as a block, unless a sequence lacks some of its token rows."""
        if not self._spool or self._spool.sequences == self._count:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        self._check()
        begin = self._clock()
        positions, rows, flags = map(np.concatenate, zip(*self._waiting, strict=True))
        # If writing the block fails, the next try uses the token rows that this one sealed.
        if self._spool and not self._sealed:
            self._sealed = self._spool.seal(positions.tolist())
        path = write_next_block(
            self._folder,
            self._digests[positions],
            rows,
            self._flags[positions] | flags,
            batches=len(self._waiting),
            residues=self._sealed,
        )
        self._waiting, self._sealed, self._count, self._bytes = [], None, 0, 0
        self._keep(read_block(path, check=False))
        self.computed += len(rows)
        self.written = self._clock()
        self.spent += self.written - begin

    def close(self) -> None:
        """Write the waiting rows, and remove the token rows of an incomplete sequence."""
        try:
            self._write()
        finally:
            if self._spool:
                self._spool.discard()

    def _keep(self, block: Block) -> None:
        self.ids += block.ids
        self.arrays.append(block.rows)
