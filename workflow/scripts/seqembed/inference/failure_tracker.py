"""Decides what is computed in place of a batch that failed, down to a single sequence.

A batch that ran out of memory is cut in two, and no later batch is larger than a half of it. Of any
other batch that failed each sequence is computed alone: at once where it raised an error, by a
fresh process where the process crashed. A sequence that failed alone twice, each time before
anything else in a fresh process, is quarantined. Where sequence after sequence fails and none
succeeds, the model or the machine is at fault: the run ends with the error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.failures import (
    FAILURES,
    Failures,
    InFlight,
    InFlightFile,
    LoneFailure,
    Suspect,
    read_failures,
    take_in_flight,
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
from seqembed.storage.digests import DigestIndex, digest_rows
from seqembed.storage.publish import set_aside

# How often a sequence has to fail alone, each time in a fresh process.
TRIES = 2
# With so many sequences in a row that failed alone, the model or the machine is at fault. The
# longest come first, and many of them may be too long for the memory.
MAX_IN_A_ROW = 10
MAX_TOO_LONG_IN_A_ROW = 30
MAX_REASON_CHARACTERS = 300


class FailureTracker:
    """Keeps in `folder` what failed in a shard, and says what to compute instead.

    digests: (N, 16) uint8 of the shard's rows. name_of: gives the id of a row's sequence. given_up:
    rows that this process does not compute any more. retrying: a sequence that failed alone before
    is being computed, and may end the process.
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
        self._known = _read_or_set_aside(folder, logger)
        self._file = InFlightFile(folder)
        quarantined = DigestIndex(digest_rows(map(bytes.fromhex, self._known.quarantined)))
        self.given_up: set[int] = set(np.flatnonzero(quarantined.find(digests) >= 0).tolist())
        self.retrying, self._fresh = False, True
        self._check: Callable[[], None] = lambda: None

    @property
    def quarantined(self) -> Set[str]:
        """Hex digests of the sequences that are given up for good."""
        return self._known.quarantined.keys()

    @property
    def token_limit(self) -> int | None:
        """The most tokens that a batch may hold, None while none ran out of memory."""
        return self._known.token_limit

    @property
    def suspects(self) -> dict[int, Suspect]:
        """By row, in the order in which they are tried.

        Those that ran out of memory come last: where one ends the process, all else is done.
        """
        known = self._known.suspects.items()
        return dict(sorted(known, key=lambda pair: (pair[1].memory, -pair[1].tries, pair[0])))

    def is_suspect(self, batch: PackedBatch) -> bool:
        """Whether a batch holds a suspect, and nothing else."""
        return self._suspect_in(batch) is not None

    def record_crash(self, crash: Mapping[str, Any] | None) -> None:
        """Attribute the last process's crash to the batches that were in flight.

        crash: its `reason`, and whether it ran out of `memory`; None where it did not crash.
        Raises WorkerCrashError where no batch was in flight, NotTheSequencesError as
        handle_failure.
        """
        flight = take_in_flight(self._folder)
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
            self._suspect(flight, reason)
        self._save()

    def start(self, rows: Sequence[int], check: Callable[[], None]) -> None:
        """Forget the suspects that are not among the rows which this run computes.

        check: called before failures are written; it raises where the model cannot be trusted.
        """
        wanted = np.isin(list(self._known.suspects), rows)
        self._known.suspects = dict(compress(self._known.suspects.items(), wanted))
        self._check = check

    def note_in_flight(self, batches: Sequence[PackedBatch]) -> None:
        """Write down, before and after each batch, which are being computed; the last is new."""
        if not batches:
            self._file.write(None)
            return
        suspect = self._suspect_in(batches[-1])
        self.retrying = suspect is not None and suspect.failed
        self._fresh &= suspect is not None
        rows = [batch.positions for batch in batches]
        flight = InFlight(
            steps=[(min(found), max(found), len(found)) for found in rows],
            tokens=max(batch.size for batch in batches),
            pieces=len(batches[-1].windows),
            fresh=self._fresh,
        )
        self._file.write(flight)

    def record_success(self, rows: NDArray[np.int64]) -> None:
        """Note rows that are computed: no suspects any more, and the end of failures in a row."""
        for row in rows.tolist():
            self._known.suspects.pop(row, None)
        if len(rows) and self._known.in_a_row:
            self._known.in_a_row.clear()
            self._save()

    def handle_failure(
        self, batch: PackedBatch, error: Exception, memory: bool, *, alone: bool
    ) -> list[PackedBatch]:
        """What to compute, each alone, in place of a batch that raised `error`.

        That is nothing where it was one sequence, which is given up in this process.

        alone: no other batch was being computed. Raises NotTheSequencesError where too many
        sequences failed in a row, each alone.
        """
        reason = _shorten(f"{type(error).__name__}: {error}")
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

        in_doubt: no other value of its batch is finite either. Raises NonFiniteError where too
        many such sequences come in a row.
        """
        self._give_up(row, reason)
        if in_doubt and (count := self._count_in_a_row(row, memory=False)):
            raise NonFiniteError(row, count)
        self._save()

    def finish(self) -> None:
        """Raise FreshProcessError where a suspect is left that a fresh process has to try."""
        self._file.remove()
        if left := list(self.suspects.values()):
            raise FreshProcessError(
                f"{len(left):,} sequences failed, the first because of {left[0].reason}; each is "
                "tried alone in a fresh process"
            )

    def _suspect_in(self, batch: PackedBatch) -> Suspect | None:
        alone = len(batch.positions) == 1
        return self._known.suspects.get(batch.positions[0]) if alone else None

    def _lower_limit(self, tokens: int, *, alone: bool) -> None:
        """Limit batches to half these tokens or, if others were in flight, to these, each alone."""
        limit = min(tokens // 2 if alone else tokens, self.token_limit or tokens)
        self._known.token_limit = limit
        words = "out of memory in a batch of %s tokens: batches hold at most %s from now on"
        self._logger.warning(words, f"{tokens:,}", f"{limit:,}")

    def _suspect(self, flight: InFlight, reason: str) -> None:
        """Have every sequence of the batches in flight tried alone."""
        rows = {row for first, last, _ in flight.steps for row in range(first, last + 1)}
        for row in sorted(rows - self.given_up):
            self._known.suspects.setdefault(row, Suspect(reason=reason))
        words = "%s: each of the %s sequences that it was computing is tried alone"
        self._logger.warning(words, reason, sum(count for _, _, count in flight.steps))

    def _fail_alone(
        self,
        row: int,
        reason: str,
        memory: bool,
        *,
        fresh: bool,
        error: Exception | None = None,
    ) -> None:
        """Quarantine a sequence, or keep it as a suspect for the next process."""
        earlier = self._known.suspects.pop(row, Suspect(reason=reason))
        if not earlier.failed and (count := self._count_in_a_row(row, memory)):
            raise NotTheSequencesError(count, reason, memory) from error
        tries = earlier.tries + fresh
        if tries >= TRIES:
            self._give_up(row, reason)
            return
        suspect = Suspect(reason=reason, failed=True, tries=tries, memory=memory)
        self._known.suspects[row] = suspect
        self._logger.warning("%s failed alone: %s", self._name_of(row), reason)

    def _give_up(self, row: int, reason: str) -> None:
        self._known.quarantined[self._digest(row)] = reason
        self._known.suspects.pop(row, None)
        self.given_up.add(row)
        self._logger.warning("%s is quarantined: %s", self._name_of(row), reason)

    def _count_in_a_row(self, row: int, memory: bool) -> int:
        """Count a sequence that failed; return the count where it is too large, else 0.

        Then none of these sequences is at fault, and what was held against them is forgotten.
        """
        self._known.in_a_row.append(LoneFailure(digest=self._digest(row), memory=memory))
        count = sum(failure.memory == memory for failure in self._known.in_a_row)
        if count < (MAX_TOO_LONG_IN_A_ROW if memory else MAX_IN_A_ROW):
            return 0
        for failure in self._known.in_a_row:
            self._known.quarantined.pop(failure.digest, None)
        self._known = Failures(
            token_limit=self._known.token_limit, quarantined=self._known.quarantined
        )
        self._save()
        return count

    def _digest(self, row: int) -> str:
        found: str = self._digests[row].tobytes().hex()
        return found

    def _save(self) -> None:
        self._check()
        write_failures(self._folder, self._known)


def _read_or_set_aside(folder: Path, logger: logging.Logger) -> Failures:
    try:
        return read_failures(folder)
    except CheckpointError as error:
        logger.warning("%s; set aside as %s", error, set_aside(folder / FAILURES).name)
        return Failures()


def _shorten(reason: str) -> str:
    """The first line of a reason, cut."""
    return reason.partition("\n")[0][:MAX_REASON_CHARACTERS]
