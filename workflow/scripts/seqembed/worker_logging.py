"""The log file of a rank, and the progress lines in it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROGRESS_SECONDS = 15.0
LINE = "%(asctime)s %(levelname)s %(message)s"


def setup_worker_logging(rank: int, log_path: Path) -> logging.Logger:
    """Open this rank's logger, which appends to `log_path`; a second call replaces the file."""
    logger = logging.getLogger(f"seqembed.worker.{rank}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(open_log_file(log_path))
    return logger


def open_log_file(path: Path) -> logging.Handler:
    """Open a handler that appends to `path`; supervisor and worker write lines to one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LINE))
    return handler


class _LogFile(logging.FileHandler):
    """Drops lines where the disk is full: the run is worth more than its log."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class Progress:
    """Logs the progress of a shard, at most every PROGRESS_SECONDS."""

    def __init__(
        self,
        logger: logging.Logger,
        sequences: int,
        done: int,
        pending_tokens: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger, self._clock = logger, clock
        self._sequences, self._done = sequences, done
        self._pending_tokens, self._tokens = pending_tokens, 0
        self._begin = self._logged = clock()
        self._checkpoint: float | None = None

    def advance(self, sequences: int, tokens: int, checkpoint: float | None) -> None:
        """Count a finished batch, and log a line when it is time.

        checkpoint: when the last one was written, by the clock; None before the first.
        """
        self._done += sequences
        self._tokens += tokens
        self._checkpoint = checkpoint
        if self._clock() - self._logged >= PROGRESS_SECONDS:
            self.tell()

    def tell(self, spent: float | None = None) -> None:
        """Log sequences done, tokens a second, time left and the last checkpoint.

        spent: at the end of a run, the seconds spent on checkpoints; logged, too.
        """
        self._logged = now = self._clock()
        rate = self._tokens / max(now - self._begin, 1e-9)
        ago = "none in this run"
        if self._checkpoint is not None:
            ago = f"{_duration(now - self._checkpoint)} ago"
        left = max(self._pending_tokens - self._tokens, 0) / rate if rate else float("inf")
        self._logger.info(
            "%s of %s sequences done, %s tokens/s, %s left, last checkpoint %s",
            f"{self._done:,}",
            f"{self._sequences:,}",
            f"{rate:,.0f}",
            _duration(left),
            ago,
        )
        if spent is not None:
            seconds = now - self._begin
            computed = f"{self._tokens:,}"
            self._logger.info("%s tokens were computed in %.3f seconds", computed, seconds)
            self._logger.info("checkpoints took %.2f of %.2f seconds", spent, seconds)


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
