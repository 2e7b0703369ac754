"""Write files beside their final name, sync and rename them: a file under its name is complete."""

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
def published(path: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """Yield a unique temporary path beside `path`; on leaving, sync it and rename it to `path`.

    When the body raises, the temporary file is removed and `path` stays as it was.
    exclusive: raise FileExistsError where there is a file at `path`, in place of replacing it.
    """
    with _temporary(path) as temporary:
        yield temporary
        sync(temporary)
        if not exclusive:
            _replace(temporary, path)
        elif not _link(temporary, path):
            # Without hard links, two writers may both find no file for an instant.
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            os.rename(temporary, path)
        sync(path.parent)


def raise_open_file_limit(needed: int = 0) -> None:
    """Raise this process's soft limit of open files to the hard one; OSError if `needed` is more.

    A process has a file open for each shard that it merges, and for each block that it maps.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        problem = f"{needed:,} files have to be open at once, and the hard limit is {hard:,}"
        raise OSError(errno.EMFILE, problem)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, replacing an existing file.

    Where the file system has no hard links, make a copy.
    """
    with _temporary(target) as temporary:
        if not _link(source, temporary):
            shutil.copyfile(source, temporary)
            sync(temporary)
        _replace(temporary, target)
        sync(target.parent)


def remove_temporary(*folders: Path) -> None:
    """Remove the temporary files that killed writers left; call it only where no writer runs."""
    for path in (path for folder in folders for path in folder.glob(".*.tmp")):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is not read again; return the new path."""
    number = 0
    while (target := path.with_name(f"{path.name}.damaged{number or ''}")).exists():
        number += 1
    os.rename(path, target)
    return target


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a unique path beside `path`; on leaving, remove the file there, if there is one."""
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


def _link(source: Path, target: Path) -> bool:
    """Make a hard link; return False where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        return False
    return True
