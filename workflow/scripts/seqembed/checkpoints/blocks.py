"""Checkpoint blocks: files with the rows of finished batches, and a checksum of all bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from seqembed.checkpoints.token_rows import COUNTS, REFERENCE, ResidueFile, read_reference
from seqembed.errors import CheckpointError
from seqembed.results.rows import map_rows
from seqembed.storage.digests import to_hex
from seqembed.storage.publish import published

FORMAT_VERSION = "1"
CHECKSUM_BYTES = 16
BLOCK_NAME = re.compile(r"batch_(\d{5,})\.safetensors")
# Stands in the place of the checksum while the checksum is computed.
BLANK = "0" * (2 * CHECKSUM_BYTES)
# The bytes of the header just before the checksum.
MARK = b'"checksum":"'
# The names of dtypes in a safetensors file.
DTYPES = {"float32": "F32", "float16": "F16"}
# The errors of reading a damaged file. Deeply nested brackets in JSON raise RecursionError.
DAMAGE = (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Block:
    """The rows of batches `first` to `last`; batches are counted from 0 over a folder's blocks.

    digests: (n, 16) uint8. rows: (n, D) float32 or float16; row i belongs to digest i. flags: (n,)
    uint8, the bits of flags.py. residues: the file of the token rows, None if the recipe asks for
    no token rows. Raises CheckpointError if a shape, a dtype or a batch's number is wrong.
    """

    first: int
    last: int
    digests: NDArray[np.uint8]
    rows: NDArray[np.floating]
    flags: NDArray[np.uint8]
    residues: ResidueFile | None = None

    @property
    def ids(self) -> list[str]:
        """The hex digests of the rows, 32 characters each, in the order of the rows."""
        return to_hex(self.digests)

    def __post_init__(self) -> None:
        count = len(self.digests)
        if self.digests.shape != (count, 16) or self.digests.dtype != np.uint8:
            found = f"{self.digests.dtype} of shape {self.digests.shape}"
            raise CheckpointError(f"its digests are {found}, not uint8 of shape (n, 16)")
        if self.rows.dtype not in (np.float32, np.float16):
            raise CheckpointError(f"its rows are {self.rows.dtype}, not float32 or float16")
        if self.rows.ndim != 2 or len(self.rows) != count or self.flags.shape != (count,):
            raise CheckpointError(
                f"for {count} digests, the rows have the shape {self.rows.shape} "
                f"and the flags {self.flags.shape}"
            )
        if self.residues and self.residues.counts.shape != (count,):
            found = f"the counts of token rows have the shape {self.residues.counts.shape}"
            raise CheckpointError(f"for {count} digests, {found}")
        if not 0 <= self.first <= self.last:
            raise CheckpointError(f"its batch numbers, {self.first} to {self.last}, are impossible")


def write_block(folder: Path, block: Block) -> Path:
    """Write `block` durably as `batch_{first:05d}.safetensors` in `folder`; return the file's path.

    Raises FileExistsError if that file exists already: a block is never overwritten.
    """
    tensors: dict[str, NDArray[Any]] = {
        "digests": block.digests,
        "rows": block.rows,
        "flags": block.flags,
    }
    metadata = {
        "checksum": BLANK,
        "first": str(block.first),
        "format_version": FORMAT_VERSION,
        "last": str(block.last),
    }
    if file := block.residues:
        tensors[COUNTS] = file.counts
        metadata |= zip(REFERENCE, (file.name, file.checksum, file.dtype), strict=True)
    content = save({name: np.ascontiguousarray(a) for name, a in tensors.items()}, metadata)
    checksum = hashlib.blake2b(content, digest_size=CHECKSUM_BYTES).hexdigest()
    path = folder / f"batch_{block.first:05d}.safetensors"
    place, view = content.index(BLANK.encode()), memoryview(content)
    with published(path, exclusive=True) as temporary, temporary.open("wb") as new:
        new.writelines([view[:place], checksum.encode(), view[place + len(BLANK) :]])
    return path


def write_next_block(
    folder: Path,
    digests: NDArray[np.uint8],
    rows: NDArray[np.floating],
    flags: NDArray[np.uint8],
    *,
    batches: int,
    residues: ResidueFile | None = None,
) -> Path:
    """Write a block after the last block in `folder`, and return the path of its file.

    digests, rows, flags, residues: as in Block. batches: how many batches the rows are from; they
    get the numbers that follow those of the last block. A missing folder is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = _next_number(folder)
    while True:
        last = first + batches - 1
        block = Block(
            first=first, last=last, digests=digests, rows=rows, flags=flags, residues=residues
        )
        try:
            return write_block(folder, block)
        except FileExistsError:
            # Another worker, perhaps one of a killed run, has just written a block of this number.
            first += 1


def write_joined_block(
    folder: Path,
    digests: NDArray[np.uint8],
    flags: NDArray[np.uint8],
    parts: Iterable[NDArray[np.floating]],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
) -> Path:
    """Write n rows after the last block in `folder`, as one block; return the path of its file.

    digests: (n, 16). flags: (n,). parts: all rows, in arrays (m, D) of `dtype`, which are never in
    memory together. shape: (n, D).
    """
    number = _next_number(folder)
    metadata = {"checksum": BLANK, "first": str(number), "format_version": FORMAT_VERSION}
    columns = {
        "rows": (DTYPES[dtype.name], shape, shape[0] * shape[1] * dtype.itemsize),
        "digests": ("U8", digests.shape, digests.size),
        "flags": ("U8", flags.shape, flags.size),
    }
    header = _make_header(columns, metadata | {"last": str(number)})
    path = folder / f"batch_{number:05d}.safetensors"
    digest = hashlib.blake2b(header, digest_size=CHECKSUM_BYTES)
    with published(path, exclusive=True) as temporary, temporary.open("wb") as new:
        new.write(header)
        for part in chain(parts, (digests, flags)):
            content = np.ascontiguousarray(part).data
            digest.update(content)
            new.write(content)
        new.seek(header.index(BLANK.encode()))
        new.write(digest.hexdigest().encode())
    return path


def _make_header(
    columns: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: Mapping[str, str]
) -> bytes:
    """Return the start of a safetensors file, as save() writes it.

    columns: for each array of the file, in order, its dtype, shape and number of bytes.
    """
    content: dict[str, Any] = {"__metadata__": metadata}
    begin = 0
    for name, (dtype, shape, size) in columns.items():
        content[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, begin + size)}
        begin += size
    text = json.dumps(content, separators=(",", ":")).encode()
    # The arrays begin at a multiple of 8 bytes.
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


def read_block(path: Path, *, check: bool = True) -> Block:
    """Read the block at `path`; its rows stay on disk, as a memory map.

    check: verify the checksums of the block and of its token rows. Raises CheckpointError if the
    block is missing, damaged or of another format version.
    """
    try:
        header = _read_header(path)
        if check:
            _check(path, header)
        metadata = dict(json.loads(header[8:])["__metadata__"])
        if metadata["format_version"] != FORMAT_VERSION:
            raise CheckpointError(f"its format version, {metadata['format_version']!r}, is unknown")
        with safe_open(path, "numpy") as file:
            held = {name: file.get_tensor(name) for name in set(file.keys()) - {"rows"}}
        residues = read_reference(metadata, held.pop(COUNTS)) if COUNTS in held else None
        if residues and check:
            residues.check(path.parent)
        first, last = int(metadata["first"]), int(metadata["last"])
        return Block(
            first=first, last=last, rows=_map_rows(path, header), residues=residues, **held
        )
    except (CheckpointError, *DAMAGE) as error:
        raise CheckpointError(
            f"{path}: damaged checkpoint block ({error}); remove the block, and its "
            "sequences are embedded again"
        ) from error


def list_blocks(folder: Path) -> list[Path]:
    """Return the paths of a folder's blocks, ordered by number; [] if the folder is missing."""
    if not folder.is_dir():
        return []
    blocks = [path for path in folder.iterdir() if BLOCK_NAME.fullmatch(path.name)]
    return sorted(blocks, key=lambda path: (_number(path), path))


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("batch_"))


def _read_header(path: Path) -> bytes:
    """Return the start of a safetensors file: the length of the JSON header, and the header."""
    with path.open("rb") as file:
        # A damaged header may claim more bytes than there is memory.
        size = min(int.from_bytes(file.read(8), "little"), path.stat().st_size)
        file.seek(0)
        return file.read(8 + size)


def _check(path: Path, header: bytes) -> None:
    """Raise CheckpointError if the checksum in the header is not the checksum of the whole file.

    While a checksum is computed, BLANK (zeros) stands in the header in place of the checksum.
    """
    before, mark, after = header.partition(MARK)
    blanked = before + mark + BLANK.encode() + after[len(BLANK) :]
    digest = hashlib.blake2b(blanked, digest_size=CHECKSUM_BYTES)
    with path.open("rb") as file:
        file.seek(len(header))
        hashlib.file_digest(file, lambda: digest)
    if not mark or after[: len(BLANK)] != digest.hexdigest().encode():
        raise CheckpointError("its checksum does not match")


def _map_rows(path: Path, header: bytes) -> NDArray[np.floating]:
    """Return a block's (n, D) rows, float32 or float16, left on disk as a memory map."""
    entry = json.loads(header[8:])["rows"]
    dtype = {name: np.dtype(own) for own, name in DTYPES.items()}[entry["dtype"]]
    start = len(header) + entry["data_offsets"][0]
    return map_rows(path, dtype, start, tuple(entry["shape"]))


def _next_number(folder: Path) -> int:
    """Return the number for the next batch: that after the last block's; 0 if there is no block."""
    if not (blocks := list_blocks(folder)):
        return 0
    try:
        return int(json.loads(_read_header(blocks[-1])[8:])["__metadata__"]["last"]) + 1
    except DAMAGE:
        # The block was damaged after this worker read it: only its name can be trusted.
        return _number(blocks[-1]) + 1
