"""The HDF5 files of embeddings, of one shard or of all: written by streaming, read checked.

Each holds `embeddings` (N, D) float32, `sequence_ids` (N,) UTF-8, `lengths` (N,) int64, `digests`
(N, 16) uint8 and `flags` (N,) uint8; what it is stands in the root's attributes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ShardError
from seqembed.files import published
from seqembed.seal import USER_BLOCK_BYTES, seal, verify_seal

FORMAT_VERSION = "1"
SLAB_BYTES = 64 << 20
SLAB_ROWS = 65_536
PACKAGES = ("torch", "h5py", "numpy", "safetensors", "pyarrow")
COLUMNS: dict[str, tuple[tuple[int, ...], Any]] = {
    "sequence_ids": ((), h5py.string_dtype("utf-8")),
    "lengths": ((), np.int64),
    "digests": ((16,), np.uint8),
    "flags": ((), np.uint8),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Slab:
    """Consecutive rows: n ids, (n,) int64 lengths, (n, 16) digests, (n,) flags, (n, D) rows."""

    sequence_ids: list[str]
    lengths: NDArray[np.int64]
    digests: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    embeddings: NDArray[np.float32]

    def __post_init__(self) -> None:
        counts = {len(getattr(self, name)) for name in (*COLUMNS, "embeddings")}
        if len(counts) != 1 or self.embeddings.ndim != 2 or self.digests.shape[1:] != (16,):
            raise ShardError(f"columns of {sorted(counts)} rows are no slab")


def slab_bounds(count: int, width: int) -> Iterator[tuple[int, int]]:
    """Cut `count` rows of `width` float32 into (start, stop) of at most SLAB_BYTES, SLAB_ROWS."""
    step = max(1, min(SLAB_ROWS, SLAB_BYTES // (4 * width)))
    for start in range(0, count, step):
        yield start, min(start + step, count)


def write_embeddings(
    path: Path,
    *,
    count: int,
    width: int,
    attributes: Mapping[str, str | int],
    slabs: Iterable[Slab],
) -> None:
    """Write `count` rows of `width` values, slab by slab; the file is sealed and read once more.

    Raises ShardError where the slabs do not add up, or where the disk gives back other bytes.
    """
    with published(path) as temporary:
        # The earliest format: every HDF5 reads it.
        with h5py.File(
            temporary, "w", userblock_size=USER_BLOCK_BYTES, libver="earliest", locking=False
        ) as file:
            file.attrs.update(_common_attributes() | dict(attributes))
            _create(file, count, width)
            written = sum(_write_slab(file, start, slab) for start, slab in _placed(slabs))
            if written != count:
                raise ShardError(f"{path}: {written:,} of {count:,} rows came; run again")
        seal(temporary)
    verify_seal(path)


def _common_attributes() -> dict[str, str]:
    return {
        "format_version": FORMAT_VERSION,
        "package_versions": json.dumps({name: version(name) for name in PACKAGES}),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _create(file: h5py.File, count: int, width: int) -> None:
    file.create_dataset("embeddings", (count, width), np.float32, track_times=False)
    for name, (shape, dtype) in COLUMNS.items():
        file.create_dataset(name, (count, *shape), dtype, track_times=False)


def _placed(slabs: Iterable[Slab]) -> Iterator[tuple[int, Slab]]:
    """Each slab with the row it begins at."""
    start = 0
    for slab in slabs:
        yield start, slab
        start += len(slab.lengths)


def _write_slab(file: h5py.File, start: int, slab: Slab) -> int:
    stop = start + len(slab.lengths)
    if stop > len(file["lengths"]):
        raise ShardError(f"{file.filename}: more rows came than were announced")
    for name in (*COLUMNS, "embeddings"):
        file[name][start:stop] = getattr(slab, name)
    return stop - start


class EmbeddingsFile:
    """A file of embeddings that was checked; `rows` (N, D) float32 stay on disk."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self._file = path, file
        self.attributes: dict[str, Any] = dict(file.attrs)
        self.count, self.width = file["embeddings"].shape
        self.rows = _map(path, file["embeddings"])

    def lengths(self) -> NDArray[np.int64]:
        """(N,) residues of each sequence."""
        return self._column("lengths")

    def digests(self) -> NDArray[np.uint8]:
        """(N, 16) digests."""
        return self._column("digests")

    def flags(self) -> NDArray[np.uint8]:
        """(N,) flags."""
        return self._column("flags")

    def _column(self, name: str) -> NDArray[Any]:
        column: NDArray[Any] = self._file[name][:]
        return column


@contextmanager
def open_embeddings(path: Path) -> Iterator[EmbeddingsFile]:
    """Check every byte of a file without HDF5, then open it.

    Raises ShardError where it is not one of ours, damaged, or of another format version.
    """
    verify_seal(path)
    with h5py.File(path, "r", locking=False) as file:
        found = file.attrs.get("format_version")
        if found != FORMAT_VERSION:
            raise ShardError(f"{path}: format version {found!r} is not known to this program")
        yield EmbeddingsFile(path, file)


def _map(path: Path, dataset: h5py.Dataset) -> NDArray[np.float32]:
    """The rows of a contiguous dataset, left on disk."""
    if not dataset.size:
        return np.empty(dataset.shape, np.float32)
    offset = dataset.id.get_offset()
    return np.memmap(path, np.float32, "r", offset, dataset.shape)
