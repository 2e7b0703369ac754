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

LOCK = "lock"
POLL_SECONDS = 0.2
REMINDER_SECONDS = 60.0


@contextmanager
def lock_folder(
    folder: Path, leave_if_asked: Callable[[], None], logger: logging.Logger
) -> Iterator[bool]:
    """Hold a folder, which is made where it is missing, so that no other process works in it.

    Waits while another holds it, and calls `leave_if_asked` meanwhile. Gives False where its file
    system has no locks: then another may be at work there, too.
    """
    next_message = -math.inf
    while (held := _try_hold(folder, logger)) is None:
        if time.monotonic() >= next_message:
            words = "waiting: another worker, perhaps of a killed run, is at work in %s"
            logger.info(words, folder)
            next_message = time.monotonic() + REMINDER_SECONDS
        leave_if_asked()
        time.sleep(POLL_SECONDS)
    descriptor, locked = held
    try:
        yield locked
    finally:
        os.close(descriptor)


def _try_hold(folder: Path, logger: logging.Logger) -> tuple[int, bool] | None:
    """The open lock file, and whether it is locked; None where another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # NFS locks only what is open for writing, which a folder cannot be.
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        words = "%s: cannot be locked (%s): what another worker does there is done twice"
        logger.warning(words, folder, error.strerror)
        return descriptor, False
    # Whoever held it may have removed it: another stands there now, or none.
    if _is_at(folder / LOCK, descriptor):
        return descriptor, True
    os.close(descriptor)
    return None


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
