"""Read the HDF5 files of embeddings, of one shard or of all sequences.

A file holds `embeddings` (N, D) float32 or float16, `sequence_ids` (N,) UTF-8, `lengths` (N,)
int64, `digests` (N, 16) uint8 and `flags` (N,) uint8. With token rows, one for each token, it holds
`residues/embeddings` (total, D), of the dtype of `embeddings`, and `residues/offsets` (N + 1,)
int64: the token rows of sequence i are the rows from offsets[i] to offsets[i + 1]. If Q sequences
could not be embedded, it holds `quarantine/digests` (Q, 16) uint8 and `quarantine/reasons` (Q,)
UTF-8. If M rows of a shard are not in it but in other files, it holds `reused/digests` (M, 16)
uint8 and `reused/files` (K,) UTF-8, the paths of these files. The root's attributes describe the
file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ShardError
from seqembed.results.rows import map_rows
from seqembed.results.seal import verify_seal
from seqembed.storage.publish import raise_open_file_limit

FORMAT_VERSION = "1"
SLAB_BYTES = 16 << 20
SLAB_ROWS = 65_536
# A file's rows and its token rows are mapped, and each map opens the file; HDF5 opens it once more.
MAPS_A_FILE, OTHER_FILES = 2, 64
COLUMNS: dict[str, tuple[tuple[int, ...], Any]] = {
    "sequence_ids": ((), h5py.string_dtype("utf-8")),
    "lengths": ((), np.int64),
    "digests": ((16,), np.uint8),
    "flags": ((), np.uint8),
}
STORAGES = ("float32", "float16")
RESIDUES, OFFSETS = "residues/embeddings", "residues/offsets"
QUARANTINE: dict[str, tuple[tuple[int, ...], Any]] = {
    "quarantine/digests": ((16,), np.uint8),
    "quarantine/reasons": ((), h5py.string_dtype("utf-8")),
}
REUSED: dict[str, tuple[tuple[int, ...], Any]] = {
    "reused/digests": ((16,), np.uint8),
    "reused/files": ((), h5py.string_dtype("utf-8")),
}


def slab_bounds(count: int, width: int, step: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the (start, stop) of the slabs into which `count` rows of `width` float32 are cut.

    A slab has at most SLAB_ROWS rows and SLAB_BYTES bytes; a slab of one row may be larger. step:
    another number of rows for each slab.
    """
    step = step or max(1, min(SLAB_ROWS, SLAB_BYTES // (4 * width)))
    for start in range(0, count, step):
        yield start, min(start + step, count)


def join_names(texts: Iterable[str]) -> str:
    """Return the names in texts like "A, B", each name once; a text without a name is ""."""
    return ", ".join(dict.fromkeys(name for text in texts for name in text.split(", ") if name))


class EmbeddingsFile:
    """A file of embeddings that was checked, and is open.

    attributes: the root's attributes. count, width: N and D. rows: the embeddings, (N, D) float32
    or float16, mapped from the file. residues: the token rows, (total, D), mapped from the file;
    None if the file has no token rows.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self._file = path, file
        self.attributes: dict[str, str | int] = {
            # h5py gives numbers as scalars of NumPy.
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in file.attrs.items()
        }
        shape: tuple[int, int] = file["embeddings"].shape
        self.count, self.width = shape
        self.rows = _map(path, file["embeddings"])
        self.residues = _map(path, file[RESIDUES]) if RESIDUES in file else None

    def ids(self, start: int, stop: int) -> list[str]:
        """Return the ids of the rows `start` to `stop - 1`."""
        texts: list[str] = self._file["sequence_ids"].asstr()[start:stop].tolist()
        return texts

    def lengths(self) -> NDArray[np.int64]:
        """Return the number of residues of each sequence, (N,) int64."""
        return self._column("lengths")

    def digests(self) -> NDArray[np.uint8]:
        """Return the digest of each sequence, (N, 16) uint8."""
        return self._column("digests")

    def flags(self) -> NDArray[np.uint8]:
        """Return the flags of each row, (N,) uint8, as flags.py defines them."""
        return self._column("flags")

    def offsets(self) -> NDArray[np.int64]:
        """Return where each sequence's token rows begin, then the number of all, (N + 1,) int64.

        Raises KeyError if the file has no token rows.
        """
        return self._column(OFFSETS)

    def token_bounds(self, row: int) -> tuple[int, int]:
        """Return where the token rows of a row begin and end; KeyError if the file has none."""
        start, stop = self._file[OFFSETS][row : row + 2].tolist()
        return start, stop

    def quarantine(self) -> dict[bytes, str]:
        """Return the digest, 16 bytes, of each sequence that was not embedded, with the reason."""
        if "quarantine" not in self._file:
            return {}
        digests, reasons = (self._file[name] for name in QUARANTINE)
        keys = (digest.tobytes() for digest in digests[:])
        return dict(zip(keys, reasons.asstr()[:].tolist(), strict=True))

    def reused(self) -> tuple[NDArray[np.uint8], list[str]]:
        """Return the (M, 16) digests of a shard's rows that are in other files, and these files."""
        if "reused" not in self._file:
            return np.empty((0, 16), np.uint8), []
        digests, files = (self._file[name] for name in REUSED)
        return digests[:], files.asstr()[:].tolist()

    def _column(self, name: str) -> NDArray[Any]:
        column: NDArray[Any] = self._file[name][:]
        return column


def store_path(store: Path, recipe_fingerprint: str) -> Path:
    """Return the path of the file in the folder `store` that keeps the last result of a recipe."""
    return store / f"{recipe_fingerprint[:12]}.h5"


def allow_open_shards(count: int, mapped: int = 0) -> None:
    """Let this process open `count` shards at once, and map `mapped` more files or blocks.

    Raises OSError if the hard limit of open files forbids it.
    """
    raise_open_file_limit(OTHER_FILES + (1 + MAPS_A_FILE) * count + MAPS_A_FILE * mapped)


@contextmanager
def open_embeddings(path: Path, *, check: bool = True) -> Iterator[EmbeddingsFile]:
    """Check every byte of a file without HDF5, then open the file for the `with` block.

    check: False leaves the bytes unchecked, so that a damaged file may give wrong values. Raises
    ShardError if the file cannot be read, is damaged, is not a file of seqembed, or has a form or
    format version that this program does not read.
    """
    try:
        if check:
            verify_seal(path)
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        problem = f"cannot be read ({error}); if it is there, remove it"
        raise ShardError(f"{path}: {problem}, and run again") from error
    with file:
        _check_form(path, file)
        yield EmbeddingsFile(path, file)


def _check_form(path: Path, file: h5py.File) -> None:
    """Raise ShardError unless the file has the known format version, shapes and dtypes."""
    _refuse_links(path, file)
    found, rows = file.attrs.get("format_version"), file.get("embeddings")
    if found != FORMAT_VERSION:
        problem = f"has format version {found!r}, and this program reads only {FORMAT_VERSION!r}"
        raise ShardError(f"{path}: {problem}; remove it and run again")
    _require(path, _are_rows(rows), f"rows of dtype {' or '.join(STORAGES)}")
    _check_columns(path, file, COLUMNS, len(rows))
    if "quarantine" in file:
        _check_columns(path, file, QUARANTINE, _count(file, "quarantine/digests"))
    for name, column in REUSED.items() if "reused" in file else ():
        _check_columns(path, file, {name: column}, _count(file, name))
    if RESIDUES in file or OFFSETS in file or file.attrs.get("per_residue"):
        token_rows, offsets = file.get(RESIDUES), file.get(OFFSETS)
        alike = _are_rows(token_rows) and token_rows.shape[1:] == rows.shape[1:]
        alike = alike and token_rows.dtype == rows.dtype
        _require(path, alike, "token rows of the width and dtype of its rows")
        cut = isinstance(offsets, h5py.Dataset)
        cut = cut and are_offsets(offsets[()], len(rows), len(token_rows))
        _require(path, cut, "valid offsets of its token rows")


def _require(path: Path, there: bool, what: str) -> None:
    if not there:
        raise ShardError(f"{path}: has no {what}; remove it and run again")


def _refuse_links(path: Path, file: h5py.Group) -> None:
    """Raise ShardError if a group or a dataset of the file is a link, or lies in another file."""
    for name in file:
        link = file.get(name, getlink=True)
        held = file[name] if isinstance(link, h5py.HardLink) else None
        if held is None or (isinstance(held, h5py.Dataset) and (held.external or held.is_virtual)):
            raise ShardError(f"{path}: {name} in it is a link; remove it and run again")
        if isinstance(held, h5py.Group):
            _refuse_links(path, held)


def _check_columns(
    path: Path, file: h5py.File, columns: Mapping[str, tuple[tuple[int, ...], Any]], count: int
) -> None:
    for name, (shape, dtype) in columns.items():
        column, wanted = file.get(name), (count, *shape)
        there = column is not None and column.shape == wanted and column.dtype == np.dtype(dtype)
        _require(path, there, f"{name} of shape {wanted}")


def _count(file: h5py.File, name: str) -> int:
    column = file.get(name)
    return len(column) if isinstance(column, h5py.Dataset) and column.ndim else 0


def _are_rows(dataset: Any) -> bool:
    """Whether this is a contiguous dataset of rows, (N, D), of a dtype in STORAGES."""
    if not isinstance(dataset, h5py.Dataset):
        return False
    return dataset.ndim == 2 and dataset.dtype.name in STORAGES and dataset.chunks is None


def are_offsets(offsets: NDArray[Any], count: int, total: int) -> bool:
    """Whether offsets, (count + 1,) int64, divide `total` token rows among `count` sequences."""
    if offsets.shape != (count + 1,) or offsets.dtype != np.int64:
        return False
    return bool(offsets[0] == 0 and offsets[-1] == total and (offsets[:-1] <= offsets[1:]).all())


def _map(path: Path, dataset: h5py.Dataset) -> NDArray[np.floating]:
    """Return the rows of a contiguous dataset, (N, D), mapped from the file at `path`."""
    return map_rows(path, dataset.dtype, dataset.id.get_offset(), dataset.shape)
