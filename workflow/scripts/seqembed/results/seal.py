"""Seal HDF5 files by a user block that shows damage before HDF5 opens the file.

A flipped bit can make HDF5 return wrong values in silence, or hang, so plain reads check the file.
HDF5 skips the user block, the first 512 bytes. The block holds one line of ASCII and is filled with
zeros; the line is the magic word, the length in bytes of all that follows the block, the name of
the checksum, and that checksum. The seal shows damage, not forgery: a cryptographic checksum would
take longer than all other work on a file.
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
    """Write the seal into the user block of a closed HDF5 file made with `userblock_size=512`."""
    with path.open("r+b") as file:
        length, checksum = _measure(file)
        file.seek(0)
        file.write(_user_block(length, checksum))


def is_sealed(path: Path) -> bool:
    """Whether a file begins with the magic word; raises OSError if the file cannot be read."""
    begin = f"{MAGIC} ".encode()
    with path.open("rb") as file:
        return file.read(len(begin)) == begin


def verify_seal(path: Path) -> None:
    """Check every byte of a sealed file without HDF5.

    Raises ShardError if the file is not a sealed file of seqembed, or is damaged; OSError if the
    file cannot be read.
    """
    with path.open("rb") as file:
        block = file.read(USER_BLOCK_BYTES)
        fields = block.split(b" ", 3)
        if fields[0] != MAGIC.encode():
            raise ShardError(f"{path}: is not a sealed seqembed file; remove it and run again")
        if fields[2:3] != [CHECKSUM.encode()]:
            problem = f"is sealed with another checksum than {CHECKSUM}"
            raise ShardError(f"{path}: {problem}; remove it and run again")
        length, checksum = _measure(file)
    if block != _user_block(length, checksum):
        raise ShardError(f"{path}: damaged since it was written; remove it and run again")


def read_seal(path: Path) -> str:
    """Return the line of a file's seal, which tells files of other content apart.

    The content is not checked. Raises ShardError if the file is not sealed, OSError if it cannot
    be read.
    """
    with path.open("rb") as file:
        line = file.read(USER_BLOCK_BYTES).partition(b"\n")[0]
    if not line.startswith(f"{MAGIC} ".encode()) or not line.isascii():
        raise ShardError(f"{path}: is not a sealed seqembed file; remove it and run again")
    return line.decode()


def _user_block(length: int, checksum: str) -> bytes:
    line = f"{MAGIC} {length} {CHECKSUM} {checksum}\n"
    return line.encode("ascii").ljust(USER_BLOCK_BYTES, b"\0")


def _measure(file: BufferedIOBase) -> tuple[int, str]:
    """Return the length in bytes and the hex checksum of all that follows the user block."""
    file.seek(USER_BLOCK_BYTES)
    length, digest, buffer = 0, xxhash.xxh3_128(), memoryview(bytearray(READ_BYTES))
    while count := file.readinto(buffer):
        length += count
        digest.update(buffer[:count])
    return length, digest.hexdigest()
