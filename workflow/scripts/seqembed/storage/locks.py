"""Wait for locks, and lock folders; the kernel frees a lock when the process that has it ends."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    """Call `attempt` until it returns a lock in place of None, and return that lock.

    message: why this process waits; logged after the first failed attempt, then once a minute.
    leave_if_asked: called before each attempt; an error that this call raises ends the wait.
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
    """Wait for the lock of a folder, hold the lock during the `with` body, and yield True.

    Yields False if the file system has no locks: then other processes may write there, too. A
    missing folder is made. leave_if_asked: called while this process waits; an error ends the wait.
    """
    message = f"another worker, perhaps of a killed run, is at work in {folder}"
    found = wait_for_lock(lambda: _try_lock(folder, logger), message, leave_if_asked, logger)
    descriptor, locked = found
    try:
        yield locked
    finally:
        os.close(descriptor)


@contextmanager
def lock_if_free(folder: Path, *, without_locks: bool = False) -> Iterator[bool]:
    """Hold the lock of a folder during the `with` body, and yield True; False if it is not free.

    without_locks: what to yield if the file system has no locks.
    """
    found = _try_lock(folder, logging.getLogger(__name__))
    try:
        yield found is not None and (found[1] or without_locks)
    finally:
        if found:
            os.close(found[0])


def _try_lock(folder: Path, logger: logging.Logger) -> tuple[int, bool] | None:
    """Return the lock file's descriptor and whether locks work; None: another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # NFS locks only files that are open for writing, and a folder cannot be opened so.
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        problem = f"{folder}: cannot be locked ({error.strerror})"
        logger.warning("%s: nothing keeps two runs from writing there; start only one", problem)
        return descriptor, False
    # The process that had the lock may have removed the file, and another may have made a new one.
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(folder / LOCK), os.fstat(descriptor)):
            return descriptor, True
    os.close(descriptor)
    return None
