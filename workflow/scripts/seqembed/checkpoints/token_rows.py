"""The token rows of a checkpoint block: with `per_residue`, a row for each token of a sequence.

Token rows are in a raw file beside the block, because they may take more memory than there is.
"""

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
from seqembed.results.rows import map_rows
from seqembed.storage.publish import sync

# The tensor of a block with the number of token rows of each of its sequences.
COUNTS = "residue_counts"
# The entries of a block's metadata that describe the file: its name, checksum and dtype.
REFERENCE = ("residues_file", "residues_checksum", "residues_dtype")
DTYPES = ("float32", "float16")


@dataclass(frozen=True, eq=False)
class ResidueFile:
    """A file with the token rows of a block's sequences, one sequence after the other.

    name: the file's name, without its folder. checksum: blake2b of the file, 32 hex characters.
    dtype: "float32" or "float16". counts: (n,) int64, the number of token rows of each sequence.
    """

    name: str
    checksum: str
    dtype: str
    counts: NDArray[np.int64]

    def check(self, folder: Path) -> None:
        """Raise CheckpointError if the file is missing in `folder`, or does not have `checksum`."""
        path = folder / self.name
        if Path(self.name).name != self.name or not path.is_file():
            raise CheckpointError(f"its token rows, {self.name!r}, are missing")
        if _checksum(path) != self.checksum:
            raise CheckpointError(f"its token rows, {self.name}, are damaged")

    def rows(self, folder: Path, width: int) -> NDArray[np.floating]:
        """Return the file's rows, left on disk: (sum of `counts`, width), of the dtype `dtype`."""
        total = int(self.counts.sum())
        return map_rows(folder / self.name, np.dtype(self.dtype), 0, (total, width))


def read_reference(metadata: Mapping[str, str], counts: NDArray[np.int64]) -> ResidueFile:
    """Return a block's file of token rows, as the block's metadata and tensor COUNTS describe it.

    counts: the tensor, (n,) int64. Raises CheckpointError if the rows are not of one of DTYPES, or
    the counts not int64 of at least 0; KeyError if an entry of the metadata is missing.
    """
    name, checksum, dtype = (metadata[key] for key in REFERENCE)
    # If the dtype were "object", NumPy would take the file's bytes for addresses in memory.
    if dtype not in DTYPES or counts.dtype != np.int64 or (counts < 0).any():
        found = f"its token rows are {dtype!r}, not float32 or float16, or their counts"
        raise CheckpointError(f"{found} are {counts.dtype}, not int64 of at least 0")
    return ResidueFile(name, checksum, dtype, counts)


class ResidueSpool:
    """Collects token rows in a temporary file in `folder`, which becomes the final file of a block.

    The rows of a sequence may be added in parts, with no other sequence between the parts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begin()

    def _begin(self) -> None:
        self._name = f"residues_{uuid.uuid4().hex}.raw"
        self._path = self._folder / f".{self._name}.tmp"
        # The file is made at the first row: a spool without rows leaves no file.
        self._file: BinaryIO | None = None
        self._counts: dict[int, int] = {}
        self._dtype, self._row_bytes = "float32", 0

    @property
    def sequences(self) -> int:
        """The number of sequences that have rows in the spool."""
        return len(self._counts)

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
        return self._file

    def add(self, position: int, rows: NDArray[np.floating]) -> None:
        """Append rows of the sequence with the number `position`: (m, D), float32 or float16."""
        self._open().write(np.ascontiguousarray(rows).data)
        self._dtype, self._row_bytes = rows.dtype.name, rows.shape[1] * rows.itemsize
        self._counts[position] = self._counts.get(position, 0) + len(rows)

    def drop(self, positions: Iterable[int]) -> None:
        """Remove the rows of these sequences, if any; they must be the last that were added."""
        for position in positions:
            if self._counts.pop(position, 0):
                file = self._open()
                file.seek(sum(self._counts.values()) * self._row_bytes)
                file.truncate()

    def seal(self, positions: Iterable[int]) -> ResidueFile:
        """Sync the file, give the file its final name, and return it; then begin a new file.

        positions: the block's sequences, in the order in which they were added. Rows of a later
        sequence, which is not complete, are cut off.
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
        """Remove the temporary file with the rows that are not sealed."""
        if self._file is None:
            return
        # If the disk is full, flushing the buffer fails; the buffer is not needed.
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()
