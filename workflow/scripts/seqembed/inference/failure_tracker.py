"""Decide what is computed in place of a batch that failed, down to a single sequence.

A batch that ran out of memory is cut in two, and later batches hold at most half as many tokens. On
a GPU, a batch is not cut below a block of rows, since a smaller one is filled up to that. If every
batch of one block needs as much memory, and one does not fit twice, the run ends with an error.
After any other failure each sequence of the batch is computed alone: at once if the batch raised an
error, in a fresh process if the process crashed. A suspect is a sequence that may have caused a
failure. A suspect that fails alone twice, each time as the first work of a fresh process, is
quarantined: no later run computes that sequence. If many sequences fail in a row, each alone, the
model or the machine is at fault, and the run ends with an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqembed.checkpoints.manifest_and_failures import (
    FAILURES,
    Failures,
    InFlight,
    InFlightFile,
    Suspect,
    read_failures,
    write_failures,
)
from seqembed.errors import (
    BlockMemoryError,
    CheckpointError,
    FreshProcessError,
    NonFiniteError,
    NotTheSequencesError,
    WorkerCrashError,
)
from seqembed.inference.batches import PackedBatch
from seqembed.kernels.choice import DRIVER_ERROR
from seqembed.settings.token_budget import whole_blocks
from seqembed.storage.digests import DigestIndex, from_hex
from seqembed.storage.publish import set_aside

# A sequence is quarantined when it has failed alone this often as a fresh process's first work.
TRIES = 2
# The run ends when this many sequences in a row have failed alone, and when this many in a row have
# run out of memory alone.
# The longest sequences are computed first, and many of them may be too long for the memory.
MAX_IN_A_ROW = 10
MAX_TOO_LONG_IN_A_ROW = 30
MAX_REASON_CHARACTERS = 300


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a GPU or this machine ran out of memory."""
    # PyTorch has no type of its own for the CPU (c10/core/impl/alloc_cpu.cpp).
    untyped = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return untyped or isinstance(error, MemoryError) or _is_of_gpu(error)


def _is_of_gpu(error: BaseException) -> bool:
    """Whether an exception says that a GPU ran out of memory."""
    # Triton has no type of its own.
    untyped = isinstance(error, RuntimeError) and f"{DRIVER_ERROR}: out of memory" in str(error)
    return untyped or isinstance(error, torch.OutOfMemoryError)


class FailureTracker:
    """Records a shard's failures, and decides what is computed in place of a failed batch.

    folder: the shard's checkpoint folder. digests: (N, 16) uint8 of the shard's rows. name_of:
    returns a row's id, for messages. block: Filling.block of the batches. even: whether all batches
    of one block need the same memory of a GPU, whatever they hold. known: the failures of this and
    earlier runs.
    given_up: the rows that this process computes no more. retrying: whether the batch that was
    submitted last is a sequence that failed alone before.
    """

    def __init__(
        self,
        folder: Path,
        digests: NDArray[np.uint8],
        name_of: Callable[[int], str],
        logger: logging.Logger,
        block: int = 1,
        *,
        even: bool = False,
    ) -> None:
        self._folder, self._digests, self._block, self._even = folder, digests, block, even
        # Whether a batch of one block ran out of memory, and none has been computed since.
        self._lacks_block = False
        self._name_of, self._logger = name_of, logger
        self._file = InFlightFile(folder)
        try:
            self.known = read_failures(folder)
        except CheckpointError as error:
            words = "%s: damaged (%r), set aside as %s; failures of earlier runs are forgotten"
            path = folder / FAILURES
            logger.warning(words, path, error.__cause__, set_aside(path).name)
            self.known = Failures()
        found = DigestIndex(from_hex(self.known.quarantined)).find(digests) >= 0
        self.given_up: set[int] = set(np.flatnonzero(found).tolist())
        self.retrying, self._fresh, self._crashed = False, True, False
        self._require_weights: Callable[[], None] = lambda: None

    @property
    def allows_graphs(self) -> bool:
        """Whether CUDA graphs may be used: not if memory ran out, nor after a crash of a process.

        Graphs take memory, and one of them may have caused the crash.
        """
        return self.known.token_limit is None and not self._crashed

    @property
    def suspects(self) -> dict[int, Suspect]:
        """The suspects by row, in computing order: suspects that ran out of memory come last."""
        known = self.known.suspects.items()
        return dict(sorted(known, key=lambda pair: (pair[1].memory, -pair[1].tries, pair[0])))

    def find_suspect(self, batch: PackedBatch) -> Suspect | None:
        """Return the suspect that is alone in a batch, or None if the batch holds anything else."""
        alone = len(batch.positions) == 1
        return self.known.suspects.get(batch.positions[0]) if alone else None

    def record_crash(self, crash: Mapping[str, Any] | None) -> None:
        """Attribute the last process's crash to the batches that were being computed.

        crash: `reason`, a text, and `memory`, whether the process ran out of memory; None if the
        process did not crash. Raises WorkerCrashError if no batch was being computed, and
        NotTheSequencesError if too many sequences in a row failed alone.
        """
        flight = self._file.take()
        if crash is None:
            return
        reason, memory = _shorten(crash["reason"]), bool(crash["memory"])
        if flight is None:
            raise WorkerCrashError(f"{reason} while no sequence was being computed")
        self._crashed = True
        others = len(flight.steps) > 1
        smaller = memory and (others or self._can_be_cut(flight.tokens, flight.pieces))
        # If the limit stays as it was, smaller batches are no help.
        if not (smaller and self._lower_limit(flight.tokens, alone=not others)):
            self._suspect(flight, reason, memory)
        self._save()

    def _suspect(self, flight: InFlight, reason: str, memory: bool) -> None:
        """Record that one of the sequences in flight may have crashed the last process."""
        (first, _, count), *others = flight.steps
        if count == 1 and not others:
            self._fail_alone(first, reason, memory, fresh=flight.fresh)
            return
        # Rows between those of a batch are not to be computed: start() forgets them.
        rows = {row for first, last, _ in flight.steps for row in range(first, last + 1)}
        for row in sorted(rows - self.given_up):
            self.known.suspects.setdefault(row, Suspect(reason=reason))
        words = "%s: each of the %s sequences that it was computing is tried alone"
        self._logger.warning(words, reason, sum(count for _, _, count in flight.steps))

    def start(self, rows: Sequence[int], check: Callable[[], None]) -> None:
        """Begin a run that computes `rows`: forget the suspects of all other rows.

        check: is called before failures are written, and raises if the weights have changed.
        """
        kept = np.intersect1d(list(self.known.suspects), rows).tolist()
        self.known.suspects = {row: self.known.suspects[row] for row in kept}
        self._require_weights = check

    def note_in_flight(self, batches: Sequence[PackedBatch]) -> None:
        """Record in in_flight.json the batches that are being computed, oldest first."""
        if not batches:
            self._file.write(None)
            return
        suspect = self.find_suspect(batches[-1])
        self.retrying = suspect is not None and suspect.failed
        self._fresh &= suspect is not None
        rows = [batch.positions for batch in batches]
        steps = [(min(found), max(found), len(found)) for found in rows]
        tokens, pieces = max(batch.size for batch in batches), len(batches[-1].windows)
        self._file.write(InFlight(steps=steps, tokens=tokens, pieces=pieces, fresh=self._fresh))

    def record_success(self, rows: NDArray[np.int64]) -> None:
        """Record that `rows`, (n,), are computed.

        Their sequences are no longer suspects, and failures in a row are counted from 0 again.
        """
        self._lacks_block = False
        for row in rows.tolist():
            self.known.suspects.pop(row, None)
        if len(rows) and self.known.in_a_row:
            self.known.in_a_row.clear()
            self._save()

    def handle_failure(
        self, batch: PackedBatch, error: Exception, *, alone: bool
    ) -> list[PackedBatch]:
        """Return the batches to compute, one at a time, in place of a batch that raised `error`.

        The list is empty if the failed batch held one sequence, which this process then gives up.
        alone: no other batch was being computed at the same time. Raises NotTheSequencesError if
        too many sequences in a row failed alone, BlockMemoryError if a GPU lacks the memory for one
        block of rows.
        """
        reason, memory = _shorten(f"{type(error).__name__}: {error}"), is_out_of_memory(error)
        if memory and (not alone or self._can_be_cut(batch.size, len(batch.windows))):
            self._lower_limit(batch.size, alone=alone)
            self._save()
            return [batch]
        if self._even and batch.size <= self._block and _is_of_gpu(error):
            if self._lacks_block:
                raise BlockMemoryError(self._block) from error
            # The caller has given back the memory of graphs meanwhile.
            self._lacks_block = True
            words = "out of memory in a batch of one block of %s rows: it is computed once more"
            self._logger.warning(words, f"{self._block:,}")
            return [batch]
        if len(batch.positions) > 1 or not alone:
            self._logger.warning("a batch failed, its sequences are tried one by one: %s", reason)
            return batch.split()
        (row,) = batch.positions
        self._fail_alone(row, reason, memory, fresh=self._fresh, error=error)
        self.given_up.add(row)
        self._save()
        return []

    def quarantine(self, row: int, reason: str, *, in_doubt: bool) -> None:
        """Quarantine the sequence of a row whose values are not finite.

        reason: what is wrong, for quarantine.tsv. in_doubt: no other sequence of the batch has
        finite values, so that the model may be at fault. Raises NonFiniteError if too many
        sequences in a row are quarantined in doubt.
        """
        self._give_up(row, reason)
        if in_doubt and (count := self._count_in_a_row(row, memory=False)):
            raise NonFiniteError(row, count)
        self._save()

    def finish(self) -> None:
        """Remove in_flight.json; raise FreshProcessError if suspects are left to compute."""
        self._file.remove()
        if left := list(self.suspects.values()):
            failed = f"{len(left):,} sequences failed, the first with {left[0].reason}"
            raise FreshProcessError(f"{failed}; a fresh process computes each of them alone")

    def _lower_limit(self, tokens: int, *, alone: bool) -> bool:
        """Lower the limit on one batch's tokens after a batch of `tokens` ran out of memory.

        If other batches of this worker were in memory too, the new limit is `tokens`, because this
        batch may fit without them. If it was `alone`, the new limit is half of `tokens`. Either is
        rounded up to whole blocks. Returns whether the limit is another one now.
        """
        earlier = self.known.token_limit
        limit = whole_blocks(tokens // 2 if alone else tokens, self._block)
        limit = min(limit, earlier or limit)
        self.known.token_limit = limit
        words = "out of memory in a batch of %s tokens: batches hold at most %s from now on"
        self._logger.warning(words, f"{tokens:,}", f"{limit:,}")
        return limit != earlier

    def _can_be_cut(self, tokens: int, windows: int) -> bool:
        """Whether parts of a batch need less memory: it has several windows, and several blocks."""
        return windows > 1 and tokens > self._block

    def _fail_alone(
        self, row: int, reason: str, memory: bool, *, fresh: bool, error: Exception | None = None
    ) -> None:
        """Record that a sequence failed alone; quarantine it after TRIES failures with `fresh`."""
        earlier = self.known.suspects.pop(row, Suspect(reason=reason))
        if not earlier.failed and (count := self._count_in_a_row(row, memory)):
            raise NotTheSequencesError(count, reason, memory) from error
        tries = earlier.tries + fresh
        if tries >= TRIES:
            self._give_up(row, reason)
        else:
            suspect = Suspect(reason=reason, failed=True, tries=tries, memory=memory)
            self.known.suspects[row] = suspect
            self._logger.warning("%s failed alone: %s", self._name_of(row), reason)

    def _give_up(self, row: int, reason: str) -> None:
        self.known.quarantined[bytes(self._digests[row]).hex()] = reason
        self.known.suspects.pop(row, None)
        self.given_up.add(row)
        self._logger.warning("%s is quarantined: %s", self._name_of(row), reason)

    def _count_in_a_row(self, row: int, memory: bool) -> int:
        """Add this failure to the failures in a row; return their count if too large, else 0.

        If there are too many, the sequences are not at fault: all suspects are forgotten, and the
        sequences that are counted leave the quarantine.
        """
        known = self.known
        known.in_a_row[bytes(self._digests[row]).hex()] = memory
        count = list(known.in_a_row.values()).count(memory)
        if count < (MAX_TOO_LONG_IN_A_ROW if memory else MAX_IN_A_ROW):
            return 0
        kept = {d: why for d, why in known.quarantined.items() if d not in known.in_a_row}
        self.known = Failures(token_limit=known.token_limit, quarantined=kept)
        self._save()
        return count

    def _save(self) -> None:
        self._require_weights()
        write_failures(self._folder, self.known)


def _shorten(reason: str) -> str:
    return reason.partition("\n")[0][:MAX_REASON_CHARACTERS]
