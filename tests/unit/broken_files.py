"""Faults of files and disks."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flip(path: Path, place: int = -1, bit: int = 1) -> None:
    """Flip a bit of one byte, in a file of its own, whatever links to it."""
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.unlink()
    path.write_bytes(content)


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Let no file grow over this many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
