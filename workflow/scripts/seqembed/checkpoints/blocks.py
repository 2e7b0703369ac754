"""Checkpoint blocks: files with the rows of finished batches, and a checksum of each byte."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from seqembed.checkpoints.token_rows import COUNTS, ResidueFile, read_reference
from seqembed.errors import CheckpointError
from seqembed.storage.digests import to_hex
from seqembed.storage.publish import published

FORMAT_VERSION = "1"
CHECKSUM_BYTES = 16
BLOCK_NAME = re.compile(r"batch_(\d{5,})\.safetensors")
# In place of the checksum while it is computed.
BLANK = "0" * (2 * CHECKSUM_BYTES)
MARK = b'"checksum":"'
# What reading a damaged file raises; a RecursionError is for brackets without end.
DAMAGE = (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Block:
    """The rows of the batches `first` to `last`; row i belongs to digest i.

    digests: (n, 16) uint8; rows: (n, D) float; flags: (n,) uint8. residues: the file of
    the token rows, None if none are kept.
    """

    first: int
    last: int
    digests: NDArray[np.uint8]
    rows: NDArray[np.floating]
    flags: NDArray[np.uint8]
    residues: ResidueFile | None = None

    @property
    def ids(self) -> list[str]:
        """Hex digests, in the order of the rows."""
        return to_hex(self.digests)

    def __post_init__(self) -> None:
        count = len(self.digests)
        if self.digests.shape != (count, 16) or self.digests.dtype != np.uint8:
            raise CheckpointError(f"digests are {self.digests.shape}, not (n, 16) bytes")
        if self.rows.dtype not in (np.float32, np.float16):
            raise CheckpointError(f"rows are {self.rows.dtype}, not float32 or float16")
        if self.rows.ndim != 2 or len(self.rows) != count or self.flags.shape != (count,):
            raise CheckpointError(
                f"{count} digests stand beside rows of shape {self.rows.shape} "
                f"and flags of shape {self.flags.shape}"
            )
        if self.residues and self.residues.counts.shape != (count,):
            raise CheckpointError(f"{count} digests stand beside {self.residues.counts.shape}")
        if not 0 <= self.first <= self.last:
            raise CheckpointError(f"batches {self.first} to {self.last} are not a range")


def write_block(folder: Path, block: Block) -> Path:
    """Write `block` durably as `batch_{first:05d}.safetensors` in `folder`; return its path.

    Raises FileExistsError if there is such a file: a block is never overwritten.
    """
    content = _serialise(block)
    path = folder / f"batch_{block.first:05d}.safetensors"
    with published(path, exclusive=True) as temporary:
        temporary.write_bytes(content.replace(BLANK.encode(), _checksum(content).encode(), 1))
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
    """Write the rows of `batches` batches, numbered after the last block of the folder."""
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
            # Another worker, perhaps an orphan, writes here too.
            first += 1


def read_block(path: Path, *, check: bool = True) -> Block:
    """Read a block; its rows stay on disk. check: verify each byte, of the token rows too.

    Raises:
        CheckpointError: the block is damaged, cut short, or of another format version.
    """
    try:
        header = _read_header(path)
        if check:
            _check(path, header)
        metadata = dict(json.loads(header[8:])["__metadata__"])
        if metadata["format_version"] != FORMAT_VERSION:
            raise CheckpointError(f"format version {metadata['format_version']} is not known")
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
            f"{path}: damaged checkpoint block ({error}); remove it, "
            "its sequences will be embedded again"
        ) from error


def list_blocks(folder: Path) -> list[Path]:
    """The blocks of a folder in the order of their numbers; none where there is no folder."""
    return [path for _, path in _numbered_blocks(folder)]


def _serialise(block: Block) -> bytes:
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
    if block.residues:
        tensors[COUNTS] = block.residues.counts
        metadata |= block.residues.reference()
    return save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata)


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=CHECKSUM_BYTES).hexdigest()


def _read_header(path: Path) -> bytes:
    """The length and the JSON that a safetensors file begins with."""
    with path.open("rb") as file:
        # A damaged header may claim more bytes than there is memory.
        size = min(int.from_bytes(file.read(8), "little"), path.stat().st_size)
        file.seek(0)
        return file.read(8 + size)


def _check(path: Path, header: bytes) -> None:
    """Raise CheckpointError if the checksum in the header is not that of the whole file.

    It is computed with zeros in place of the checksum itself."""
    start = header.find(MARK) + len(MARK)
    stored = header[start : start + len(BLANK)]
    blanked = header[:start] + BLANK.encode() + header[start + len(BLANK) :]
    digest = hashlib.blake2b(blanked, digest_size=CHECKSUM_BYTES)
    with path.open("rb") as file:
        file.seek(len(header))
        hashlib.file_digest(file, lambda: digest)
    if start < len(MARK) or stored != digest.hexdigest().encode():
        raise CheckpointError("its checksum does not match")


def _map_rows(path: Path, header: bytes) -> NDArray[np.floating]:
    """The rows of a block, (n, D), left on disk."""
    entry = json.loads(header[8:])["rows"]
    dtype = {"F32": np.float32, "F16": np.float16}[entry["dtype"]]
    if 0 in entry["shape"]:
        return np.empty(entry["shape"], dtype)
    return np.memmap(
        path, dtype, "r", len(header) + entry["data_offsets"][0], tuple(entry["shape"])
    )


def _numbered_blocks(folder: Path) -> list[tuple[int, Path]]:
    """Each block with the number in its name, ascending."""
    if not folder.is_dir():
        return []
    found = [(BLOCK_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def _next_number(folder: Path) -> int:
    """The batch number after the last block's."""
    blocks = _numbered_blocks(folder)
    if not blocks:
        return 0
    first, path = blocks[-1]
    try:
        return int(json.loads(_read_header(path)[8:])["__metadata__"]["last"]) + 1
    except DAMAGE:
        # It is damaged and not set aside yet: only its name is known.
        return first + 1
