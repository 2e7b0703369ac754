"""The options, the log and the handling of errors, which all entry programs share."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from seqembed.environment import logs_are_shown
from seqembed.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    IS_BUG,
    InterruptedRun,
    SeqembedError,
    explain,
)
from seqembed.machine.screen import Report, ScreenProgress
from seqembed.worker_logging import open_log_file

Step = Callable[[argparse.Namespace, logging.Logger], None]

# How the names of the programs' loggers begin.
LOGGERS = "seqembed."


def parser(description: str | None, *, needs_log: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the option --log; needs_log: the user has to give that option."""
    result = argparse.ArgumentParser(description=description, allow_abbrev=False)
    result.add_argument("--log", type=Path, required=needs_log, help="append the log to this file")
    return result


def run(step: Step, arguments: argparse.Namespace, label: str = "") -> int:
    """Run an entry program's one step; return the exit code.

    The code is 0, or 1 after an error, or 143 after SIGTERM or Ctrl-C. An error that the user can
    mend becomes one line on stderr and in the log; any other error is a bug, and its traceback goes
    to both. If Snakemake shows the log of a failed program, stderr gets the lines only after
    success. label: what follows the program's name in each line on stderr.
    """
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    logger, screen = _open_screen(f"{Path(sys.argv[0]).stem}{label}")
    held = MemoryHandler(sys.maxsize, flushLevel=sys.maxsize)
    try:
        if arguments.log:
            logger.addHandler(open_log_file(arguments.log))
            if logs_are_shown(os.environ):
                logger.removeHandler(screen)
                logger.addHandler(held)
        step(arguments, logger)
        held.setTarget(screen)
        held.flush()
        return 0
    except (InterruptedRun, KeyboardInterrupt) as error:
        logger.warning("%s", str(error) or "stopped by Ctrl-C")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 (the boundary of the program)
        if line := explain(error):
            ending = "" if isinstance(error, SeqembedError) else ", and run again"
            logger.error("%s%s", line, ending)
        else:
            logger.exception("%s", IS_BUG)
    return EXIT_FAILED


def _open_screen(name: str) -> tuple[logging.Logger, logging.Handler]:
    logger = logging.getLogger(f"{LOGGERS}{name}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    screen = logging.StreamHandler()
    screen.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    logger.handlers = [screen]
    return logger, screen


def report_progress(logger: logging.Logger) -> Report:
    """Return what writes on stderr how far a step of ten seconds or more is; logger: the step's."""
    return ScreenProgress(logger.name.removeprefix(LOGGERS)).count


def _exit_on_sigterm(*_: Any) -> None:
    # sys.exit raises, so that temporary files are removed; a second SIGTERM would interrupt that.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(EXIT_INTERRUPTED)
