"""Locks that the kernel frees when their holder dies."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

LOCK = "lock"
POLL_SECONDS = 0.2
REMINDER_SECONDS = 60.0

Lock = TypeVar("Lock")


def wait_for_lock(
    attempt: Callable[[], Lock | None],
    message: str,
    leave_if_asked: Callable[[], None],
    logger: logging.Logger,
) -> Lock:
    """Call `attempt` until it returns a lock; log `message` at first, and again each minute.

    leave_if_asked: called before each attempt; the wait ends if that call raises.
    """
    next_reminder = 0.0
    while True:
        leave_if_asked()
        if (lock := attempt()) is not None:
            return lock
        if time.monotonic() >= next_reminder:
            logger.info("waiting: %s", message)
            next_reminder = time.monotonic() + REMINDER_SECONDS
        time.sleep(POLL_SECONDS)


@contextmanager
def lock_folder(
    folder: Path, leave_if_asked: Callable[[], None], logger: logging.Logger
) -> Iterator[bool]:
    """Hold a folder's lock in the body; make a missing folder; wait while another process has it.

    Gives False if the file system has no locks: another process may work in the folder, too.
    """
    attempt = partial(_try_lock, folder, logger)
    message = f"another worker, perhaps of a killed run, is at work in {folder}"
    descriptor, locked = wait_for_lock(attempt, message, leave_if_asked, logger)
    try:
        yield locked
    finally:
        os.close(descriptor)


def _try_lock(folder: Path, logger: logging.Logger) -> tuple[int, bool] | None:
    """Return the open lock file, and whether it is locked; None if another process has the lock."""
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
        words = "%s: cannot be locked (%s): another worker may compute the same sequences there"
        logger.warning(words, folder, error.strerror)
        return descriptor, False
    # The holder may have removed the file, and another process may have made a new one.
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(folder / LOCK), os.fstat(descriptor)):
            return descriptor, True
    os.close(descriptor)
    return None
