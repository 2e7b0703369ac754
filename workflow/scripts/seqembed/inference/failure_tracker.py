"""The tries of a shard's steps: what fails is narrowed down until one sequence is left.

A step that runs out of memory is cut in two, and no later step is larger than what was left. Any
other failure is halved, too, until one sequence fails alone; one that has done so twice, each time
before anything else in a fresh process, is quarantined. Where sequence after sequence fails and
none passes, it is not they that are at fault, and the run ends with the error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.failures import (
    FAILURES,
    Failures,
    LoneFailure,
    Suspect,
    read_failures,
    write_failures,
)
from seqembed.checkpoints.in_flight import InFlight, InFlightFile, take_in_flight
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
# The most sequences that may fail one after the other, each alone: where there are more, the model
# or the machine is at fault. The longest come first, and many of them may be too long.
MAX_IN_A_ROW = 10
MAX_TOO_LONG_IN_A_ROW = 30
MAX_REASON_CHARACTERS = 300


class FailureTracker:
    """What a run over a shard knows of failures; kept in `folder`.

    digests: (N, 16) uint8 of all rows of the shard. name_of: the id of a row's sequence. given_up:
    rows that this process does not compute any more.
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
        self._pending = np.zeros(len(digests), bool)
        self._file = InFlightFile(folder)
        self.given_up = set(_find(self._known.quarantined, digests).tolist())
        self._fresh, self._trying = True, False
        self._check: Callable[[], None] = lambda: None

    @property
    def quarantined(self) -> Set[str]:
        """Hex digests of the sequences that are given up."""
        return self._known.quarantined.keys()

    @property
    def token_limit(self) -> int | None:
        """Tokens that a step may hold, as far as memory told."""
        return self._known.token_limit

    @property
    def suspects(self) -> list[Suspect]:
        """Those with a row that is still to compute, in the order in which they are tried.

        What ran out of memory comes last: where it ends the process, all else is done.
        """
        left = [s for s in self._known.suspects if self._pending[s.first : s.last + 1].any()]
        return sorted(left, key=lambda s: (s.memory, not s.alone, -s.tries))

    @property
    def trying(self) -> bool:
        """Whether the model is at a suspect."""
        return self._trying

    def is_suspect(self, batch: PackedBatch) -> bool:
        """Whether a batch holds a suspect, with which it is alone then."""
        return bool(self._suspects_in(batch))

    def record_crash(self, crash: Mapping[str, Any] | None) -> None:
        """Lay the end of the last process to what it was at.

        crash: its `reason`, and whether it was want of `memory`; None where it was no crash.
        Raises WorkerCrashError where it was at no step, NotTheSequencesError as handle_failure.
        """
        flight = take_in_flight(self._folder)
        if crash is None:
            return
        reason, memory = str(crash["reason"]), bool(crash["memory"])
        if flight is None:
            raise WorkerCrashError(f"{reason}, and no sequence was at work then")
        (first, last, count), *others = flight.steps
        if memory and (others or flight.pieces > 1):
            self._lower_limit(flight.tokens, alone=not others)
        elif count == 1 and not others:
            self._failed_alone(first, reason, memory, fresh=flight.fresh)
        else:
            for first, last, _ in flight.steps:
                self._suspect(first, last, reason)
        self._save()

    def start(self, rows: Sequence[int], check: Callable[[], None]) -> None:
        """The rows of the shard that this run computes.

        check: called before anything is written down of them; it raises where the model is not
        what it should be.
        """
        self._pending[rows] = True
        self._check = check

    def note_in_flight(self, batches: Sequence[PackedBatch]) -> None:
        """Say, before each step and after it, which batches the model is at."""
        if batches:
            positions = batches[-1].positions
            suspects = self._suspects_in(batches[-1])
            self._trying = bool(suspects)
            self._fresh &= len(positions) == 1 and any(s.alone for s in suspects)
        self._file.tell(_describe(batches, self._fresh) if batches else None)

    def record_success(self, positions: NDArray[np.int64]) -> None:
        """Count rows that are computed: nobody before them is in doubt any longer."""
        if not len(positions):
            return
        self._pending[positions] = False
        if self._known.doubts:
            self._known.doubts.clear()
            self._save()

    def handle_failure(
        self, step: PackedBatch, error: Exception, memory: bool, *, alone: bool
    ) -> list[PackedBatch]:
        """What to try in place of a step that raised `error`; nothing where it was one sequence.

        alone: nothing else was at work; else the step is tried once more by itself. Raises
        NotTheSequencesError where too many sequences failed in a row, each alone.
        """
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        if memory and (len(step.pieces) > 1 or not alone):
            self._lower_limit(step.size, alone=alone)
            self._save()
            return [step]
        if not alone:
            self._logger.warning("a step failed beside others and is tried alone: %s", reason)
            return [step]
        if len(step.positions) > 1:
            self._logger.warning("a step of %s sequences failed: %s", len(step.positions), reason)
            return step.halves()
        self._failed_alone(step.positions[0], reason, memory, fresh=self._fresh, error=error)
        self.given_up.update(step.positions)
        self._save()
        return []

    def quarantine(self, position: int, reason: str, *, in_doubt: bool) -> None:
        """Quarantine a sequence whose values are not finite.

        in_doubt: none beside it is finite either. Raises NonFiniteError where there are too many
        such in a row.
        """
        self._give_up(position, reason)
        if in_doubt and (count := self._doubt(position, memory=False)):
            raise NonFiniteError(position, count)
        self._save()

    def finish(self) -> None:
        """Raise FreshProcessError where a suspect is left that a fresh process has to try."""
        self._file.close()
        if left := self.suspects:
            raise FreshProcessError(
                f"{len(left):,} sequences failed, the first because of {left[0].reason}; each is "
                "tried alone in a fresh process"
            )

    def _suspects_in(self, batch: PackedBatch) -> list[Suspect]:
        first = batch.positions[0]
        return [s for s in self._known.suspects if s.first <= first <= s.last]

    def _lower_limit(self, tokens: int, *, alone: bool) -> None:
        """Let steps be half as large or, where others were at work, as large, but each alone."""
        limit = min(tokens // 2 if alone else tokens, self.token_limit or tokens)
        self._known.token_limit = limit
        words = "out of memory in a step of %s tokens: steps hold at most %s from now on"
        self._logger.warning(words, f"{tokens:,}", f"{limit:,}")

    def _suspect(self, first: int, last: int, reason: str) -> None:
        """Suspect each half of these rows, in place of what overlaps them."""
        middle = (first + last) // 2
        self._known.suspects = [
            suspect
            for suspect in self._known.suspects
            if suspect.alone or suspect.last < first or last < suspect.first
        ]
        alone = {suspect.first for suspect in self._known.suspects if suspect.alone}
        halves = [(first, middle), (middle + 1, last)]
        for begin, end in halves if first < last else [(first, last)]:
            if begin != end or begin not in alone:
                self._known.suspects.append(Suspect(first=begin, last=end, reason=_cut(reason)))
        words = "%s at rows %s to %s of the shard: they are tried apart"
        self._logger.warning(words, reason, first, last)

    def _failed_alone(
        self,
        position: int,
        reason: str,
        memory: bool,
        *,
        fresh: bool,
        error: Exception | None = None,
    ) -> None:
        earlier = [s for s in self._known.suspects if (s.first, s.last) == (position, position)]
        if not (earlier and earlier[0].failed) and (count := self._doubt(position, memory)):
            raise NotTheSequencesError(count, reason, memory) from error
        tries = (earlier[0].tries if earlier else 0) + fresh
        self._drop_suspect(position)
        if tries >= TRIES:
            self._give_up(position, reason)
            return
        self._known.suspects.append(
            Suspect(
                first=position,
                last=position,
                reason=_cut(reason),
                failed=True,
                tries=tries,
                memory=memory,
            )
        )
        self._logger.warning("%s failed alone: %s", self._name_of(position), reason)

    def _drop_suspect(self, position: int) -> None:
        self._known.suspects = [
            s for s in self._known.suspects if (s.first, s.last) != (position, position)
        ]

    def _give_up(self, position: int, reason: str) -> None:
        self._known.quarantined[self._digest(position)] = _cut(reason)
        self._pending[position] = False
        self.given_up.add(position)
        self._logger.warning("%s is quarantined: %s", self._name_of(position), reason)

    def _doubt(self, position: int, memory: bool) -> int:
        """Count a sequence that failed; where there are too many in a row, return their number.

        They are cleared of it then: it is not theirs.
        """
        self._known.doubts.append(LoneFailure(digest=self._digest(position), memory=memory))
        count = sum(doubt.memory == memory for doubt in self._known.doubts)
        if count < (MAX_TOO_LONG_IN_A_ROW if memory else MAX_IN_A_ROW):
            return 0
        for doubt in self._known.doubts:
            self._known.quarantined.pop(doubt.digest, None)
        self._known = Failures(
            token_limit=self._known.token_limit, quarantined=self._known.quarantined
        )
        self._save()
        return count

    def _digest(self, position: int) -> str:
        found: str = self._digests[position].tobytes().hex()
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


def _find(quarantined: Mapping[str, str], digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The rows of quarantined sequences."""
    wanted = digest_rows(map(bytes.fromhex, quarantined))
    return np.flatnonzero(DigestIndex(wanted).find(digests) >= 0)


def _describe(batches: Sequence[PackedBatch], fresh: bool) -> InFlight:
    positions = [batch.positions for batch in batches]
    return InFlight(
        steps=[(min(found), max(found), len(found)) for found in positions],
        tokens=max(batch.size for batch in batches),
        pieces=len(batches[-1].pieces),
        fresh=fresh,
    )


def _cut(reason: str) -> str:
    line, _, _ = reason.partition("\n")
    return line[:MAX_REASON_CHARACTERS]
