"""Log how far a shard is, how fast it is computed, and how long it will take."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

PROGRESS_SECONDS = 15.0


@dataclass
class Progress:
    """Logs the progress of a shard, at most every PROGRESS_SECONDS.

    sequences: how many the shard has. done: how many of these have a row already. pending_tokens:
    how many tokens are to be computed. clock: returns seconds.
    """

    logger: logging.Logger
    sequences: int
    done: int
    pending_tokens: int
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._begin = self._logged = self.clock()
        self._tokens = 0
        self._checkpoint: float | None = None

    def advance(self, sequences: int, tokens: int, checkpoint: float | None) -> None:
        """Count a batch that finished `sequences` and took `tokens`; log the progress if it is due.

        checkpoint: the clock's time of the last checkpoint, None before the first.
        """
        if tokens and not self._tokens:
            words = "the first batch, %s tokens, was done after %.3f seconds"
            self.logger.info(words, f"{tokens:,}", self.clock() - self._begin)
        self.done += sequences
        self._tokens += tokens
        self._checkpoint = checkpoint
        if self.clock() - self._logged >= PROGRESS_SECONDS:
            self.log()

    def log(self, spent: float | None = None) -> None:
        """Log the sequences done, tokens per second, time left and time since the last checkpoint.

        spent: the seconds spent on checkpoints, logged at the end of a run; None during the run.
        """
        self._logged = now = self.clock()
        seconds = now - self._begin
        rate = self._tokens / max(seconds, 1e-9)
        missing = max(self.pending_tokens - self._tokens, 0)
        left = _duration(missing / rate) if rate else "unknown time"
        written = self._checkpoint
        ago = "none in this run" if written is None else f"{_duration(now - written)} ago"
        done = f"{self.done:,} of {self.sequences:,} sequences done, {rate:,.0f} tokens/s"
        self.logger.info("%s, %s left, last checkpoint %s", done, left, ago)
        if spent is not None:
            self.logger.info(f"{self._tokens:,} tokens were computed in {seconds:.3f} seconds")
            self.logger.info("checkpoints took %.2f of %.2f seconds", spent, seconds)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
