"""Open the log file of a rank."""

from __future__ import annotations

import logging
import sys
from pathlib import Path


def setup_worker_logging(rank: int, log_path: Path) -> logging.Logger:
    """Return the rank's logger, which appends to `log_path`; an earlier call's file is closed."""
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
