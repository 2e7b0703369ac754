"""Write files so that one under its final name is complete: written beside it, synced, renamed."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqembed.errors import FileFormatError

# The names of our temporary files, and of no other program's.
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp|\.residues_[0-9a-f]{32}\.raw\.tmp")
# The errors of os.link where a file system has no hard links, or source and target are on two.
NO_HARD_LINKS = {errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Give a unique temporary path beside `path`; on leaving, sync it and rename it to `path`.

    When the body raises, the temporary file is removed and `path` stays as it was.
    """
    with _temporary(path) as temporary:
        yield temporary
        sync(temporary)
        _replace(temporary, path)
        sync(path.parent)


@contextmanager
def publish_exclusively(path: Path) -> Iterator[Path]:
    """As `published`, but never over an existing file: FileExistsError where there is one."""
    with _temporary(path) as temporary:
        yield temporary
        sync(temporary)
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            _rename_exclusively(temporary, path)
        sync(path.parent)


def allow_open_files(count: int) -> None:
    """Raise this process's soft limit to `count` open files; OSError if the hard one is lower."""
    soft, hard = (
        count if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    if hard < count:
        problem = f"{count:,} files have to be open at once, and the hard limit is {hard:,}"
        raise OSError(errno.EMFILE, problem)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def raise_open_file_limit() -> None:
    """Raise this process's soft limit of open files to the hard one.

    Each checkpoint block whose rows are mapped stays open.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, replacing an existing file.

    Where the file system has no hard links, make a copy.
    """
    with _temporary(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            shutil.copyfile(source, temporary)
            sync(temporary)
        _replace(temporary, target)
        sync(target.parent)


def remove_temporary(*folders: Path) -> None:
    """Remove the temporary files that killed writers left in these folders.

    Call it only where no writer can be running. Missing folders are skipped.
    """
    for path in (path for folder in folders for path in folder.glob(".*.tmp")):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is not read again; return its new path."""
    number = 0
    while (target := path.with_name(f"{path.name}.damaged{number or ''}")).exists():
        number += 1
    os.rename(path, target)
    return target


def sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A unique path beside `path`, removed at the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    except OSError as error:
        # An error of write or fsync names no file, and users do not know the temporary one.
        if error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _replace(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except IsADirectoryError as error:
        message = f"{target}: is a folder, but a file belongs there; remove it and run again"
        raise FileFormatError(message) from error


def _rename_exclusively(source: Path, target: Path) -> None:
    # Without hard links, two writers may both find no file for an instant.
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)
