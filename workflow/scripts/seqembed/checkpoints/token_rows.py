"""Token rows of a checkpoint block, which may be larger than memory: a raw file beside it."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import CheckpointError
from seqembed.results.rows import TokenRowPool
from seqembed.storage.publish import sync

# The tensor of a block that counts the token rows of each of its sequences.
COUNTS = "residue_counts"
DTYPES = ("float32", "float16")


@dataclass(frozen=True, eq=False)
class ResidueFile:
    """Rows of `dtype` in `folder/name`, in the order of a block's sequences, nothing between.

    counts: (n,) int64, the rows of each sequence. checksum: blake2b of the file, 32 hex characters.
    """

    name: str
    checksum: str
    dtype: str
    counts: NDArray[np.int64]

    def reference(self) -> dict[str, str]:
        """What a block's metadata say of it."""
        return {
            "residues_file": self.name,
            "residues_checksum": self.checksum,
            "residues_dtype": self.dtype,
        }

    def check(self, folder: Path) -> None:
        """Raise CheckpointError unless every byte is as it was written."""
        path = folder / self.name
        if Path(self.name).name != self.name or not path.is_file():
            raise CheckpointError(f"its token rows, {self.name!r}, are missing")
        if _checksum(path) != self.checksum:
            raise CheckpointError(f"its token rows, {self.name}, are damaged")

    def rows(self, folder: Path, width: int) -> NDArray[np.floating]:
        """All of them, (total, width), left on disk."""
        total = int(self.counts.sum())
        if not total:
            return np.empty((0, width), self.dtype)
        return np.memmap(folder / self.name, self.dtype, "r", shape=(total, width))


def read_reference(metadata: Mapping[str, str], counts: NDArray[np.int64]) -> ResidueFile:
    """The token rows that a block's metadata tell of; CheckpointError for what is none of ours."""
    name, checksum, dtype = (metadata[f"residues_{w}"] for w in ("file", "checksum", "dtype"))
    # Rows of a type that holds objects would be read as addresses of memory.
    if dtype not in DTYPES or counts.dtype != np.int64 or (counts < 0).any():
        raise CheckpointError(f"its token rows are {dtype!r}, counted in {counts.dtype}")
    return ResidueFile(name, checksum, dtype, counts)


class ResidueSpool:
    """Takes the token rows of sequences one after the other, on disk, and seals them for a block.

    A sequence may come in several parts, nothing else between them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begin()

    def _begin(self) -> None:
        self._name = f"residues_{uuid.uuid4().hex}.raw"
        self._path = self._folder / f".{self._name}.tmp"
        # It is there as soon as it is needed: whoever has no rows leaves no file.
        self._file: BinaryIO | None = None
        self._counts: dict[int, int] = {}
        self._dtype, self._row_bytes = "float32", 0

    @property
    def sequences(self) -> int:
        """Of how many sequences it holds rows."""
        return len(self._counts)

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
        return self._file

    def add(self, position: int, rows: NDArray[np.floating]) -> None:
        """Append (m, D) rows of the sequence at `position`."""
        self._open().write(np.ascontiguousarray(rows).data)
        self._dtype, self._row_bytes = rows.dtype.name, rows.shape[1] * rows.itemsize
        self._counts[position] = self._counts.get(position, 0) + len(rows)

    def drop(self, positions: Iterable[int]) -> None:
        """Forget what came of these sequences, the last ones that did."""
        for position in positions:
            if self._counts.pop(position, 0):
                file = self._open()
                file.seek(sum(self._counts.values()) * self._row_bytes)
                file.truncate()

    def seal(self, positions: Iterable[int]) -> ResidueFile:
        """Make durable the rows of these sequences, and begin anew.

        They are the first that came; what came after them is of a sequence that is not whole.
        """
        counts = np.array([self._counts[position] for position in positions], np.int64)
        file = self._open()
        file.truncate(int(counts.sum()) * self._row_bytes)
        file.close()
        sync(self._path)
        sealed = ResidueFile(self._name, _checksum(self._path), self._dtype, counts)
        os.rename(self._path, self._folder / self._name)
        sync(self._folder)
        self._begin()
        return sealed

    def discard(self) -> None:
        """Remove what was not sealed."""
        if self._file is None:
            return
        # A full disk may refuse what is still to be written, which nobody needs.
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


def copy_residues(folder: Path, rows: TokenRowPool, places: NDArray[np.int64]) -> ResidueFile:
    """Write the token rows of sequences of a pool as one sealed file."""
    spool = ResidueSpool(folder)
    try:
        for number, place in enumerate(places):
            for part in rows.parts(np.array([place])):
                spool.add(number, part)
        return spool.seal(range(len(places)))
    finally:
        spool.discard()


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()
