"""Locks that the kernel frees when their holder dies."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 0.2
REMINDER_SECONDS = 60.0


@contextmanager
def hold_folder(
    folder: Path, leave_if_asked: Callable[[], None], logger: logging.Logger
) -> Iterator[bool]:
    """Hold a folder, which is made where it is missing, so that no other process works in it.

    Waits while another holds it, and calls `leave_if_asked` meanwhile. Gives False where its file
    system has no locks: then another may be at work there, too.
    """
    descriptor, locked = _wait(folder, leave_if_asked, logger)
    try:
        yield locked
    finally:
        os.close(descriptor)


def _wait(
    folder: Path, leave_if_asked: Callable[[], None], logger: logging.Logger
) -> tuple[int, bool]:
    next_message = -math.inf
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed it: another folder stands there now, or none.
            if _is_at(folder, descriptor):
                return descriptor, True
        except BlockingIOError:
            pass
        except OSError as error:
            logger.warning(
                "%s: cannot be locked (%s): what another worker does there is done twice",
                folder,
                error.strerror,
            )
            return descriptor, False
        os.close(descriptor)
        if time.monotonic() >= next_message:
            logger.info(
                "waiting: another worker, perhaps of a killed run, is at work in %s", folder
            )
            next_message = time.monotonic() + REMINDER_SECONDS
        leave_if_asked()
        time.sleep(POLL_SECONDS)


def _is_at(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False
