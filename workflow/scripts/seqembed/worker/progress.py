"""Say how far a shard is, how fast it is computed, and how long it will take."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seqembed.errors import count_of
from seqembed.inference.failure_tracker import FailureTracker
from seqembed.machine.words import format_seconds
from seqembed.worker.checkpoint_writer import CheckpointWriter
from seqembed.worker.decisions import Run
from seqembed.worker.outlets import Outlets

RATE_SECONDS = 15.0
# The speed is that over this many times RATE_SECONDS.
RECENT = 4


@dataclass(frozen=True, kw_only=True)
class Work:
    """How many sequences and tokens a shard has, and how many of them were there already.

    room: for how many tokens the batches have room that are to be computed.
    """

    sequences: int
    tokens: int
    done: int
    done_tokens: int
    room: int


def measure_work(run: Run, done: int, pending_tokens: int, room: int) -> Work:
    """Return how much the worker's shard has.

    done: how many of its rows are there. pending_tokens: how many tokens are to be computed. room:
    Work.room.
    """
    tokens = int(run.policy.model_tokens(run.shard.tokens).sum())
    sizes = {"sequences": len(run.shard.rows), "tokens": tokens}
    return Work(**sizes, done=done, done_tokens=tokens - pending_tokens, room=room)


class Progress:
    """Counts what a worker has done, and says so on the screen, in its heartbeat and its events.

    writer: knows which rows are on disk. tracker: knows which sequences will get no row. clock:
    returns seconds.

    computed: how many tokens were computed. seconds: how long that took, known after end(). spent:
    the seconds that saying so has taken.
    """

    def __init__(
        self,
        logger: logging.Logger,
        work: Work,
        writer: CheckpointWriter,
        tracker: FailureTracker,
        outlets: Outlets,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger, self._work, self._writer, self._tracker = logger, work, writer, tracker
        self._outlets, self._clock = outlets, clock
        self._made = self._begin = self._ticked = clock()
        self._done, self._batches, self._retried = work.done, 0, 0
        self._block: float | None = None
        self._recent = deque([(self._made, 0)], RECENT + 1)
        self.computed, self.spent, self.seconds = 0, 0.0, 0.0
        outlets.start(**vars(work))

    def begin(self) -> None:
        """Begin to count the time: the model is loaded, and the first batch begins."""
        self._begin = self._ticked = now = self._clock()
        self._recent = deque([(now, 0)], RECENT + 1)
        self._outlets.heartbeat.write(phase="computing")

    def advance(self, sequences: int, tokens: int, retried: int) -> None:
        """Count a batch that finished `sequences` and took `tokens`; say so if it is due.

        retried: how many of its sequences were computed again in fp32.
        """
        now = self._clock()
        self._retried += retried
        self._done, self.computed = self._done + sequences, self.computed + tokens
        if tokens and not self._batches:
            words = "the first batch, %s tokens, was done after %.3f seconds"
            self._logger.info(words, f"{tokens:,}", now - self._made)
            self._append("first")
        self._batches += bool(tokens)
        self._note_checkpoint()
        if now - self._ticked >= RATE_SECONDS:
            self._tick(now)
        self._outlets.screen.update(self._share, self._describe)
        self.spent += self._clock() - now

    def end(self) -> None:
        """Log how much was computed: call this after the last batch, whatever ended the run."""
        self.seconds, total = self._clock() - self._begin, self._work.sequences
        self._logger.info(
            f"{self._done:,} of {total:,} sequences done, {self._speed():,.0f} tokens/s"
        )
        self._logger.info(f"{self.computed:,} tokens were computed in {self.seconds:.3f} seconds")
        words = "checkpoints took %.2f of %.2f seconds, heartbeat and progress %.2f"
        self._logger.info(words, self._writer.spent, self.seconds, self.spent)
        if self._retried:
            words = "computed again in fp32, since values were not finite: %s"
            self._logger.info(words, count_of(self._retried, "sequence"))
        self._note_checkpoint()
        self._append("rate")

    def finish(self) -> None:
        """Say that all batches are done, and that the worker now writes its shard."""
        self._append("computed")
        self._outlets.heartbeat.write(phase="writing", **self._counts())

    def _tick(self, now: float) -> None:
        """Write the heartbeat, and an event of the speed."""
        self._ticked = now
        self._recent.append((now, self.computed))
        self._append("rate")
        saved = self._writer.written
        self._outlets.heartbeat.write(
            batches=self._batches,
            tokens_per_second=self._speed(),
            seconds_left=self._left(),
            checkpoint_seconds_ago=None if saved is None else round(now - saved, 1),
            **self._counts(),
        )

    def _note_checkpoint(self) -> None:
        if self._writer.written != self._block:
            self._block = self._writer.written
            self._outlets.events.append("checkpoint", computed=self._writer.computed)

    def _counts(self) -> dict[str, Any]:
        return {
            "done": self._done,
            "done_tokens": self._work.done_tokens + self.computed,
            "quarantined": len(self._tracker.known.quarantined),
        }

    def _append(self, event: str) -> None:
        spent = round(self._writer.spent, 3)
        self._outlets.events.append(event, **self._counts(), checkpoint_seconds=spent)

    @property
    def _share(self) -> float:
        return min(1.0, (self._work.done_tokens + self.computed) / max(1, self._work.tokens))

    def _speed(self) -> float:
        """Return the tokens a second over the last minute."""
        (begin, before), now = self._recent[0], self._clock()
        return round((self.computed - before) / max(now - begin, 1e-9), 1)

    def _left(self) -> float | None:
        """Return the seconds that are left at this speed; None if no batch was finished."""
        missing = max(0, self._work.tokens - self._work.done_tokens - self.computed)
        speed = self._speed()
        return round(missing / speed, 1) if speed else None

    def _describe(self) -> str:
        left = self._left()
        return (
            f"{self._done:,} of {self._work.sequences:,} sequences, {self._speed():,.0f} tokens/s, "
            f"{'unknown time' if left is None else format_seconds(left)} left"
        )
