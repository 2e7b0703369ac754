"""Open the log file of a rank, and write progress lines to it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROGRESS_SECONDS = 15.0


def setup_worker_logging(rank: int, log_path: Path) -> logging.Logger:
    """Return the rank's logger, which appends to `log_path`; close the file of an earlier call."""
    logger = logging.getLogger(f"seqembed.worker.{rank}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in logger.handlers:
        handler.close()
    logger.handlers = [open_log_file(log_path)]
    return logger


def open_log_file(path: Path) -> logging.Handler:
    """Return a handler that appends lines to the file `path`; other processes may append, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


class _LogFile(logging.FileHandler):
    """Drops a line that cannot be written, as on a full disk: the run matters more than its log."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


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
        """Count a batch that finished `sequences` and computed `tokens`; log the progress if due.

        checkpoint: the clock's time of the last checkpoint, None before the first.
        """
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
