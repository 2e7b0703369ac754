"""Write a file under a temporary name, sync it, rename it: under its final name it is complete."""

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

# Matches the names of this program's temporary files, and those of no other program.
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp|\.residues_[0-9a-f]{32}\.raw\.tmp")
# The errors of os.link if a file system has no hard links, or if the paths are on two of them.
NO_HARD_LINKS = {errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


@contextmanager
def published(path: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """Yield a temporary path, where the body writes a file; sync that file, rename it to `path`.

    The temporary path lies beside `path`; missing folders are made. If the body raises, the
    temporary file is removed, and a file at `path` stays as it was. exclusive: raise
    FileExistsError if there is a file at `path`, instead of replacing that file. Raises
    FileFormatError if there is a folder at `path`.
    """
    with _renamed(path, exclusive) as temporary:
        yield temporary
        sync(temporary)


def raise_open_file_limit(needed: int = 0) -> None:
    """Raise this process's soft limit of open files to its hard limit.

    A process opens a file for each shard that it merges, and for each block that it maps. Raises
    OSError if the hard limit is below `needed`, a number of files.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        problem = f"{needed:,} files have to be open at once, and the hard limit is {hard:,}"
        raise OSError(errno.EMFILE, problem)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def link(source: Path, target: Path) -> None:
    """Make `target` a hard link to the file `source`; a file at `target` is replaced.

    If the file system has no hard links, `target` becomes a copy. Missing folders are made. Raises
    FileFormatError if there is a folder at `target`.
    """
    with _renamed(target) as temporary:
        if not make_link(source, temporary):
            shutil.copyfile(source, temporary)
            sync(temporary)


def remove_temporary(*folders: Path, of: str = "*") -> None:
    """Remove temporary files that killed processes left; no process may now write in `folders`.

    of: the final name of the files to remove; the default removes those of any name.
    """
    for path in (path for folder in folders for path in folder.glob(f".{of}.*tmp")):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `NAME.damaged`, numbered if that exists; return the new path."""
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
def _renamed(path: Path, exclusive: bool = False) -> Iterator[Path]:
    """Yield a unique path beside `path`; rename the file that the body writes there to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        if not (exclusive and make_link(temporary, path)):
            # Without hard links, two writers may both find no file for an instant.
            if exclusive and path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            try:
                os.rename(temporary, path)
            except IsADirectoryError as error:
                message = f"{path}: is a folder, but a file belongs there; remove it and run again"
                raise FileFormatError(message) from error
        sync(path.parent)
    except OSError as error:
        # An error of write or fsync names no file, and users do not know the temporary name.
        if error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def make_link(source: Path, target: Path, *, symbolic: bool = False) -> bool:
    """Make a hard or a symbolic link; return whether the file system has links of this kind."""
    make = os.symlink if symbolic else os.link
    try:
        make(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        return False
    return True
