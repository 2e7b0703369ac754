"""The rows that one file holds: a block of a checkpoint, a finished shard, or a result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import list_blocks, read_block
from seqembed.results.reader import EmbeddingsFile, open_embeddings, slab_bounds
from seqembed.results.rows import TokenRowPool


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedRows:
    """The n rows of a file; rows and token rows stay on disk.

    digests: (n, 16) uint8. flags: (n,) uint8. rows: (n, D) float32 or float16. token_rows: the
    token rows of all sequences, (total, D), and where those of each begin and end, (n + 1,); None
    if the file has none.
    """

    path: Path
    digests: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    rows: NDArray[np.floating]
    token_rows: tuple[NDArray[np.floating], NDArray[np.int64]] | None = None

    @classmethod
    def of(cls, file: EmbeddingsFile) -> SavedRows:
        """Return the rows of an open file of embeddings; they can be read after it is closed."""
        tokens = None if file.residues is None else (file.residues, file.offsets())
        return cls(
            path=file.path,
            digests=file.digests(),
            flags=file.flags(),
            rows=file.rows,
            token_rows=tokens,
        )

    def select(self, kept: NDArray[np.bool_]) -> SavedRows:
        """Return the rows for which `kept`, (n,), is True, in memory, without their token rows."""
        return replace(
            self,
            digests=self.digests[kept],
            flags=self.flags[kept],
            rows=self.rows[kept],
            token_rows=None,
        )

    def parts(self) -> Iterator[NDArray[np.floating]]:
        """Yield all rows in order, in arrays (m, D) of a few megabytes."""
        for start, stop in slab_bounds(len(self.rows), self.rows.shape[1]):
            yield np.asarray(self.rows[start:stop])


def read_saved(path: Path, *, check: bool = True) -> SavedRows:
    """Return the rows of a block, or of an HDF5 file of embeddings.

    check: verify a block's checksums; those of an HDF5 file are always verified. Raises
    CheckpointError for a damaged block, ShardError for another damaged file.
    """
    if path.suffix == ".h5":
        with open_embeddings(path) as file:
            return SavedRows.of(file)
    block, tokens = read_block(path, check=check), None
    if residues := block.residues:
        offsets = np.append(0, residues.counts.cumsum())
        tokens = residues.rows(path.parent, block.rows.shape[1]), offsets
    return SavedRows(
        path=path, digests=block.digests, flags=block.flags, rows=block.rows, token_rows=tokens
    )


def list_saved(folder: Path) -> list[Path]:
    """Return the paths of a checkpoint folder's files that hold rows, the finished shard first."""
    return [*sorted(folder.glob("shard_*.h5")), *list_blocks(folder)]


def read_all_saved(folder: Path) -> Iterator[SavedRows]:
    """Yield the rows of each file in a checkpoint folder, whose blocks were checked before."""
    return (read_saved(path, check=False) for path in list_saved(folder))


def pool_saved_tokens(files: Sequence[SavedRows]) -> TokenRowPool | None:
    """Return the token rows of all files together; None if any file has none.

    Sequences are numbered from 0 in one count over all files.
    """
    found = [file.token_rows for file in files if file.token_rows is not None]
    if len(found) < len(files):
        return None
    return TokenRowPool([rows for rows, _ in found], [offsets for _, offsets in found])
