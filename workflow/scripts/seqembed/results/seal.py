"""The HDF5 files' seal: a user block that shows damage before HDF5 opens the file.

A flipped bit can make HDF5 return wrong values in silence, or hang, so the check is made by
plain reads. The first 512 bytes, which HDF5 skips, hold one line of ASCII and are filled with
zeros: the magic word, the length, the checksum's name and the checksum of all that follows the
block. It is there to show damage, not forgery: a cryptographic checksum would take longer than all
else that is done with a file.
"""

from __future__ import annotations

from io import BufferedIOBase
from pathlib import Path

import xxhash

from seqembed.errors import ShardError

MAGIC = "SEQEMBED1"
USER_BLOCK_BYTES = 512
CHECKSUM = "xxh3-128"
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
        ShardError: the file is not a sealed file of seqembed, was cut short, or changed.
    """
    with path.open("rb") as file:
        block = file.read(USER_BLOCK_BYTES)
        _check_known(path, block)
        length, checksum = _measure(file)
    if block != _user_block(length, checksum):
        raise ShardError(f"{path}: damaged since it was written; remove it and run again")


def _check_known(path: Path, block: bytes) -> None:
    """Raise ShardError unless the block begins with the magic word and names our checksum."""
    fields = block.split(b" ", 3)
    if fields[0] != MAGIC.encode():
        raise ShardError(f"{path}: is not a sealed seqembed file; make it again")
    if fields[2:3] != [CHECKSUM.encode()]:
        raise ShardError(f"{path}: is sealed with another checksum than {CHECKSUM}; make it again")


def _user_block(length: int, checksum: str) -> bytes:
    line = f"{MAGIC} {length} {CHECKSUM} {checksum}\n"
    return line.encode("ascii").ljust(USER_BLOCK_BYTES, b"\0")


def _measure(file: BufferedIOBase) -> tuple[int, str]:
    """Length in bytes and checksum of all that follows the user block."""
    file.seek(USER_BLOCK_BYTES)
    length, digest, buffer = 0, xxhash.xxh3_128(), memoryview(bytearray(READ_BYTES))
    while count := file.readinto(buffer):
        length += count
        digest.update(buffer[:count])
    return length, digest.hexdigest()
