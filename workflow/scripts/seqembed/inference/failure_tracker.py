"""Decides what is computed in place of a batch that failed, down to a single sequence.

A batch that ran out of memory is cut in two, and no later batch may be larger than half of that
batch. After any other failure each sequence of the batch is computed alone: at once if the batch
raised an error, in a fresh process if the process crashed. A sequence that failed alone twice, each
time as the first work of a fresh process, is quarantined. If many sequences in a row fail and none
succeeds, the model or the machine is at fault: the run ends with the error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqembed.checkpoints.failures import (
    FAILURES,
    Failures,
    InFlight,
    InFlightFile,
    Suspect,
    read_failures,
    write_failures,
)
from seqembed.errors import (
    CheckpointError,
    FreshProcessError,
    NonFiniteError,
    NotTheSequencesError,
    WorkerCrashError,
)
from seqembed.inference.batches import PackedBatch
from seqembed.storage.digests import DigestIndex, from_hex
from seqembed.storage.publish import set_aside

# How often a sequence has to fail alone, each time as a fresh process's first work.
TRIES = 2
# After this many failures in a row, each of a sequence alone, the model or the machine is at fault.
# The longest sequences come first, and many of them may be too long for the memory.
MAX_IN_A_ROW = 10
MAX_TOO_LONG_IN_A_ROW = 30
MAX_REASON_CHARACTERS = 300


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, ran out of memory."""
    # PyTorch has no exception type of its own for the CPU (c10/core/impl/alloc_cpu.cpp).
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return on_cpu or isinstance(error, (torch.OutOfMemoryError, MemoryError))


class FailureTracker:
    """Keeps in `folder` what failed in a shard, and says what to compute instead.

    digests: (N, 16) uint8 of the shard's rows. name_of: returns the id of a row's sequence.
    given_up: rows that this process does not compute any more. retrying: a sequence that failed
    alone before is being computed, and may end the process.
    """

    def __init__(
        self,
        folder: Path,
        digests: NDArray[np.uint8],
        name_of: Callable[[int], str],
        logger: logging.Logger,
    ) -> None:
        self._folder, self._digests = folder, digests
        self._name_of, self._logger = name_of, logger
        self._file = InFlightFile(folder)
        try:
            self._known = read_failures(folder)
        except CheckpointError as error:
            logger.warning("%s; set aside as %s", error, set_aside(folder / FAILURES).name)
            self._known = Failures()
        found = DigestIndex(from_hex(self._known.quarantined)).find(digests) >= 0
        self.given_up: set[int] = set(np.flatnonzero(found).tolist())
        self.retrying, self._fresh = False, True
        self._check: Callable[[], None] = lambda: None

    @property
    def quarantined(self) -> Set[str]:
        """Hex digests of the sequences that are given up for good."""
        return self._known.quarantined.keys()

    @property
    def token_limit(self) -> int | None:
        """The most tokens that a batch may hold, None while no batch ran out of memory."""
        return self._known.token_limit

    @property
    def suspects(self) -> dict[int, Suspect]:
        """Suspects by row, in the order in which they are tried.

        Suspects that ran out of memory come last: if one ends the process, all else is done.
        """
        known = self._known.suspects.items()
        return dict(sorted(known, key=lambda pair: (pair[1].memory, -pair[1].tries, pair[0])))

    def find_suspect(self, batch: PackedBatch) -> Suspect | None:
        """Return the suspect that a batch holds, and nothing else; None for any other batch."""
        alone = len(batch.positions) == 1
        return self._known.suspects.get(batch.positions[0]) if alone else None

    def record_crash(self, crash: Mapping[str, Any] | None) -> None:
        """Attribute the last process's crash to the batches that were in flight.

        crash: its `reason`, and whether `memory` ran out; None if the process did not crash.
        Raises WorkerCrashError if no batch was in flight, NotTheSequencesError if too many
        sequences failed in a row, each alone.
        """
        flight = self._file.take()
        if crash is None:
            return
        reason, memory = _shorten(crash["reason"]), bool(crash["memory"])
        if flight is None:
            raise WorkerCrashError(f"{reason} while no sequence was being computed")
        (first, _, count), *others = flight.steps
        if memory and (others or flight.pieces > 1):
            self._lower_limit(flight.tokens, alone=not others)
        elif count == 1 and not others:
            self._fail_alone(first, reason, memory, fresh=flight.fresh)
        else:
            rows = {row for first, last, _ in flight.steps for row in range(first, last + 1)}
            for row in sorted(rows - self.given_up):
                self._known.suspects.setdefault(row, Suspect(reason=reason))
            words = "%s: each of the %s sequences that it was computing is tried alone"
            self._logger.warning(words, reason, sum(count for _, _, count in flight.steps))
        self._save()

    def start(self, rows: Sequence[int], check: Callable[[], None]) -> None:
        """Forget the suspects that are not among `rows`, which this run computes.

        check: called before failures are written; raises if the model cannot be trusted.
        """
        kept = np.intersect1d(list(self._known.suspects), rows).tolist()
        self._known.suspects = {row: self._known.suspects[row] for row in kept}
        self._check = check

    def note_in_flight(self, batches: Sequence[PackedBatch]) -> None:
        """Record the batches that are being computed, of which the last has just begun."""
        if not batches:
            self._file.write(None)
            return
        suspect = self.find_suspect(batches[-1])
        self.retrying = suspect is not None and suspect.failed
        self._fresh &= suspect is not None
        rows = [batch.positions for batch in batches]
        self._file.write(
            InFlight(
                steps=[(min(found), max(found), len(found)) for found in rows],
                tokens=max(batch.size for batch in batches),
                pieces=len(batches[-1].windows),
                fresh=self._fresh,
            )
        )

    def record_success(self, rows: NDArray[np.int64]) -> None:
        """Record that `rows` are computed: they are no suspects, and failures in a row end."""
        for row in rows.tolist():
            self._known.suspects.pop(row, None)
        if len(rows) and self._known.in_a_row:
            self._known.in_a_row.clear()
            self._save()

    def handle_failure(
        self, batch: PackedBatch, error: Exception, *, alone: bool
    ) -> list[PackedBatch]:
        """Return the batches to compute, each alone, in place of a batch that raised `error`.

        There are none if the batch held one sequence, which this process then gives up. alone: no
        other batch was being computed. Raises NotTheSequencesError if too many sequences failed in
        a row, each alone.
        """
        reason, memory = _shorten(f"{type(error).__name__}: {error}"), is_out_of_memory(error)
        if memory and (len(batch.windows) > 1 or not alone):
            self._lower_limit(batch.size, alone=alone)
            self._save()
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
        """Give up a sequence whose values are not finite.

        in_doubt: nothing else in the sequence's batch is finite either. Raises NonFiniteError if
        too many sequences in a row are given up in doubt.
        """
        self._give_up(row, reason)
        if in_doubt and (count := self._count_in_a_row(row, memory=False)):
            raise NonFiniteError(row, count)
        self._save()

    def finish(self) -> None:
        """Raise FreshProcessError if a suspect is left, which a fresh process has to try."""
        self._file.remove()
        if left := list(self.suspects.values()):
            raise FreshProcessError(
                f"{len(left):,} sequences failed, the first because of {left[0].reason}; each is "
                "tried alone in a fresh process"
            )

    def _lower_limit(self, tokens: int, *, alone: bool) -> None:
        """Limit batches to half of `tokens`, or to all if not `alone`: later ones run alone."""
        limit = min(tokens // 2 if alone else tokens, self.token_limit or tokens)
        self._known.token_limit = limit
        words = "out of memory in a batch of %s tokens: batches hold at most %s from now on"
        self._logger.warning(words, f"{tokens:,}", f"{limit:,}")

    def _fail_alone(
        self, row: int, reason: str, memory: bool, *, fresh: bool, error: Exception | None = None
    ) -> None:
        """Quarantine a sequence, or keep it as a suspect for the next process."""
        earlier = self._known.suspects.pop(row, Suspect(reason=reason))
        if not earlier.failed and (count := self._count_in_a_row(row, memory)):
            raise NotTheSequencesError(count, reason, memory) from error
        tries = earlier.tries + fresh
        if tries >= TRIES:
            self._give_up(row, reason)
        else:
            suspect = Suspect(reason=reason, failed=True, tries=tries, memory=memory)
            self._known.suspects[row] = suspect
            self._logger.warning("%s failed alone: %s", self._name_of(row), reason)

    def _give_up(self, row: int, reason: str) -> None:
        self._known.quarantined[self._digest(row)] = reason
        self._known.suspects.pop(row, None)
        self.given_up.add(row)
        self._logger.warning("%s is quarantined: %s", self._name_of(row), reason)

    def _count_in_a_row(self, row: int, memory: bool) -> int:
        """Count a sequence that failed; return the count if it is too large, else 0.

        After too many none of these sequences is at fault: their suspicion and quarantine end.
        """
        known = self._known
        known.in_a_row[self._digest(row)] = memory
        count = list(known.in_a_row.values()).count(memory)
        if count < (MAX_TOO_LONG_IN_A_ROW if memory else MAX_IN_A_ROW):
            return 0
        kept = {d: why for d, why in known.quarantined.items() if d not in known.in_a_row}
        self._known = Failures(token_limit=known.token_limit, quarantined=kept)
        self._save()
        return count

    def _digest(self, row: int) -> str:
        return bytes(self._digests[row]).hex()

    def _save(self) -> None:
        self._check()
        write_failures(self._folder, self._known)


def _shorten(reason: str) -> str:
    return reason.partition("\n")[0][:MAX_REASON_CHARACTERS]
