"""The options, the log and the handling of errors, which all entry programs share."""

from __future__ import annotations

import argparse
import errno
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqembed.errors import EXIT_FAILED, EXIT_INTERRUPTED, InterruptedRun, SeqembedError
from seqembed.machine.screen import Report, ScreenProgress
from seqembed.worker_logging import open_log_file

Step = Callable[[argparse.Namespace, logging.Logger], None]

# How the names of the programs' loggers begin.
LOGGERS = "seqembed."
# What to do about an operating system's error, by its number; `and run again` follows.
ADVICE = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room within your quota",
    errno.EIO: "check its disk, which reports errors,",
    errno.EROFS: "make its disk writable",
    errno.EMFILE: "have the limit raised (`ulimit -Hn` shows it), or set fewer `shards`,",
    errno.EACCES: "check the permissions",
}


def parser(description: str | None, *, needs_log: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the option --log; needs_log: the user has to give that option."""
    result = argparse.ArgumentParser(description=description, allow_abbrev=False)
    result.add_argument("--log", type=Path, required=needs_log, help="append the log to this file")
    return result


def run(step: Step, arguments: argparse.Namespace, label: str = "") -> int:
    """Run an entry program's one step; return the exit code.

    The code is 0, or 1 after an error, or 143 after SIGTERM or Ctrl-C. A SeqembedError or OSError
    becomes one line on stderr and in the log; any other error is a bug, and its traceback goes to
    both. label: what follows the program's name in each line on stderr.
    """
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    name = f"{Path(sys.argv[0]).stem}{label}"
    logger = logging.getLogger(f"{LOGGERS}{name}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    screen = logging.StreamHandler()
    screen.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    logger.handlers = [screen]
    try:
        if arguments.log:
            logger.addHandler(open_log_file(arguments.log))
        step(arguments, logger)
        return 0
    except (InterruptedRun, KeyboardInterrupt) as error:
        logger.warning("%s", str(error) or "stopped by Ctrl-C")
        return EXIT_INTERRUPTED
    except SeqembedError as error:
        logger.error("%s", error)
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "mend this")
        logger.error("%s; %s and run again", error, advice)
    except Exception:  # noqa: BLE001 (the boundary of the program)
        logger.exception("this is a bug in seqembed; please report it with all lines below")
    return EXIT_FAILED


def report_progress(logger: logging.Logger) -> Report:
    """Return what writes on stderr how far a step of ten seconds or more is; logger: the step's."""
    return ScreenProgress(logger.name.removeprefix(LOGGERS)).count


def _exit_on_sigterm(*_: Any) -> None:
    # sys.exit raises, so that temporary files are removed; a second SIGTERM would interrupt that.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(EXIT_INTERRUPTED)
