"""The HDF5 files' seal: a user block that tells damage before HDF5 opens the file.

A flipped bit can make HDF5 return wrong values in silence, or hang, so the check is made by
plain reads. The first 512 bytes, which HDF5 skips, hold one line of ASCII and are filled with
zeros: the magic word, the length and the checksum of all that follows the block.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from seqembed.errors import ShardError

MAGIC = "SEQEMBED1"
USER_BLOCK_BYTES = 512
CHECKSUM = "blake2b-128"
READ_BYTES = 1 << 20


def seal(path: Path) -> None:
    """Fill the user block of a closed HDF5 file made with `userblock_size=512`."""
    with path.open("r+b") as file:
        length, checksum = _measure(file)
        file.seek(0)
        file.write(_user_block(length, checksum))


def verify_seal(path: Path) -> None:
    """Check every byte of a sealed file without HDF5.

    Raises:
        ShardError: the file is not one of ours, was cut short, or was changed.
    """
    with path.open("rb") as file:
        block = file.read(USER_BLOCK_BYTES)
        if not block.startswith(f"{MAGIC} ".encode()):
            raise ShardError(f"{path}: no sealed seqembed file; make it again")
        length, checksum = _measure(file)
    if block != _user_block(length, checksum):
        raise ShardError(f"{path}: damaged since it was written; remove it and run again")


def _user_block(length: int, checksum: str) -> bytes:
    line = f"{MAGIC} {length} {CHECKSUM} {checksum}\n"
    return line.encode("ascii").ljust(USER_BLOCK_BYTES, b"\0")


def _measure(file: BinaryIO) -> tuple[int, str]:
    """Length in bytes and checksum of all that follows the user block."""
    file.seek(USER_BLOCK_BYTES)
    length, digest = 0, hashlib.blake2b(digest_size=16)
    while piece := file.read(READ_BYTES):
        length += len(piece)
        digest.update(piece)
    return length, digest.hexdigest()
