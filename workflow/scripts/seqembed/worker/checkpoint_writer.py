"""Collect finished rows, and write them as checkpoint blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import Block, read_block, write_next_block
from seqembed.checkpoints.token_rows import ResidueFile, ResidueSpool
from seqembed.inference.batches import PackedBatch
from seqembed.inference.rows import BatchRows

Result = TypeVar("Result")

# When the waiting rows take this many bytes, a block is written before one is due.
MAX_WAITING_BYTES = 64 << 20
# Of each batch: its rows in the shard, values and flags.
Waiting = list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]


class CheckpointWriter:
    """Collects the rows of finished batches, and writes them as a block when one is due.

    digests, (N, 16) uint8, and flags, (N,) uint8, are of all rows of the shard. per_residue: keep
    token rows, too. A block is due after `sequences` or `seconds`. check: called before each block;
    raises if the rows must not be trusted. background: a block that is due is written in a thread,
    one block at a time; its error is raised by the next call. Blocks with token rows are written at
    once even so. clock: returns seconds.

    ids: the hex digests of all rows in written blocks. arrays: each block's (n, D) rows,
    on disk. computed: how many rows the writer wrote. written: the clock's time of the last block,
    None before the first. spent: the seconds that writing took.
    """

    def __init__(
        self,
        folder: Path,
        *,
        digests: NDArray[np.uint8],
        flags: NDArray[np.uint8],
        per_residue: bool,
        sequences: int,
        seconds: float,
        check: Callable[[], None],
        background: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._sequences, self._seconds = folder, sequences, seconds
        self._digests, self._flags = digests, flags
        self._check, self._clock, self._since = check, clock, clock()
        # The batches that are in no block yet.
        self._waiting: Waiting = []
        self._count = self._bytes = 0
        self._spool = ResidueSpool(folder) if per_residue else None
        self._sealed: ResidueFile | None = None
        self._thread = ThreadPoolExecutor(1, "block") if background and not per_residue else None
        # The batches of the block that was begun, and what _write_block returns for it.
        self._begun: tuple[Waiting, Future[tuple[Block, float]]] | None = None
        self.ids: list[str] = []
        self.arrays: list[NDArray[np.floating]] = []
        self.computed, self.spent = 0, 0.0
        self.written: float | None = None

    def make_room(self, batches: Iterable[PackedBatch]) -> Iterator[PackedBatch]:
        """Yield batches; before a batch with which too many sequences would wait, write a block."""
        for batch in batches:
            if self._count + len(batch.positions) > self._sequences:
                self._begin_block()
            yield batch

    def add(self, batch: BatchRows) -> int:
        """Add a batch; return how many sequences it completes. Write a block if due."""
        if self._spool:
            self._spool.drop(batch.given_up)
            for position, residues in batch.residues:
                self._spool.add(position, residues)
        # A batch that holds only a part of a sequence completes no sequence.
        if count := len(batch.positions):
            # The caller may use its array again before the block is written.
            rows = batch.rows.copy()
            self._waiting.append((batch.positions, rows, batch.flags))
            self._count, self._bytes = self._count + count, self._bytes + rows.nbytes
            late = self._clock() - self._since >= self._seconds
            if self._count >= self._sequences or self._bytes >= MAX_WAITING_BYTES or late:
                self._begin_block()
        if self._begun and self._begun[1].done():
            self._end_block()
        return count

    def write(self) -> None:
        """Write the waiting rows as a block, unless a sequence lacks some of its token rows.

        All blocks are on disk when this method returns.
        """
        self._begin_block()
        self._end_block()

    def close(self) -> None:
        """Write the waiting rows, and remove the token rows of an incomplete sequence."""
        try:
            self._begin_block(incomplete=True)
            self._end_block()
        finally:
            if self._spool:
                self._spool.discard()
            if self._thread:
                self._thread.shutdown()

    def _begin_block(self, *, incomplete: bool = False) -> None:
        """Begin a block of the waiting rows, unless a sequence lacks some of its token rows.

        incomplete: begin it even so. Without a thread, the block is on disk when this returns.
        """
        self._end_block()
        lacking = self._spool and self._spool.sequences != self._count and not incomplete
        if lacking or not self._waiting:
            return
        submit = self._thread.submit if self._thread else _call
        self._begun = self._waiting, submit(partial(self._write_block, self._waiting))
        self._waiting, self._count, self._bytes, self._since = [], 0, 0, self._clock()
        if not self._thread:
            self._end_block()

    def _end_block(self) -> None:
        """Wait for the block that was begun. After an error, its rows wait for the next block."""
        if not self._begun:
            return
        (batches, future), self._begun = self._begun, None
        try:
            block, seconds = future.result()
        except BaseException:
            self._waiting = batches + self._waiting
            self._count = sum(len(rows) for _, rows, _ in self._waiting)
            self._bytes = sum(rows.nbytes for _, rows, _ in self._waiting)
            raise
        self._sealed = None
        self._keep(block)
        self.computed += len(block.rows)
        self.written = self._since = self._clock()
        self.spent += seconds

    def _write_block(self, batches: Waiting) -> tuple[Block, float]:
        """Write a block; return it as it is on disk, and the seconds that this took."""
        self._check()
        begin = self._clock()
        positions, rows, flags = map(np.concatenate, zip(*batches, strict=True))
        # If writing the block fails, the next try uses the token rows that this one sealed.
        if self._spool and not self._sealed:
            self._sealed = self._spool.seal(positions.tolist())
        path = write_next_block(
            self._folder,
            self._digests[positions],
            rows,
            self._flags[positions] | flags,
            batches=len(batches),
            residues=self._sealed,
        )
        return read_block(path, check=False), self._clock() - begin

    def _keep(self, block: Block) -> None:
        self.ids += block.ids
        self.arrays.append(block.rows)


def _call(work: Callable[[], Result]) -> Future[Result]:
    """Call `work` in this thread; return a future that is done."""
    future: Future[Result] = Future()
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 (the future raises it)
        future.set_exception(error)
    return future
