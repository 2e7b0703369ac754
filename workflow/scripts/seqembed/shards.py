"""The HDF5 files of embeddings, of one shard or of all: written by streaming, read checked.

Each holds `embeddings` (N, D) float32 or float16, `sequence_ids` (N,) UTF-8, `lengths` (N,) int64,
`digests` (N, 16) uint8 and `flags` (N,) uint8; with token rows also `residues/embeddings`
(total, D) and `residues/offsets` (N + 1,) int64: those of sequence i are the rows from
offsets[i] to offsets[i + 1]. Where sequences could not be embedded, `quarantine/digests` (Q, 16)
uint8 and `quarantine/reasons` (Q,) UTF-8. What the file is stands in the root's attributes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from seqembed.files import published, sync
from seqembed.row_pool import TokenRowPool, digest_rows
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
STORAGES = ("float32", "float16")
RESIDUES, OFFSETS = "residues/embeddings", "residues/offsets"
QUARANTINE: dict[str, tuple[tuple[int, ...], Any]] = {
    "quarantine/digests": ((16,), np.uint8),
    "quarantine/reasons": ((), h5py.string_dtype("utf-8")),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Slab:
    """Consecutive rows: n ids, (n,) int64 lengths, (n, 16) digests, (n,) flags, (n, D) rows."""

    sequence_ids: list[str]
    lengths: NDArray[np.int64]
    digests: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    embeddings: NDArray[np.floating]

    def __post_init__(self) -> None:
        n = len(self.sequence_ids)
        shapes = [self.lengths.shape, self.flags.shape, self.digests.shape, self.embeddings.shape]
        if shapes[:3] != [(n,), (n,), (n, 16)] or shapes[3][:-1] != (n,):
            raise ShardError(f"{n:,} ids stand beside columns of shapes {shapes}")


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenRows:
    """The token rows of all sequences: (N + 1,) int64 offsets, and the rows in order, in parts."""

    offsets: NDArray[np.int64]
    parts: Iterable[NDArray[np.floating]]


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
    storage: str,
    attributes: Mapping[str, str | int],
    slabs: Iterable[Slab],
    residues: TokenRows | None = None,
    quarantine: Mapping[bytes, str] | None = None,
) -> None:
    """Write `count` rows of `width` values, slab by slab; the file is sealed and read once more.

    storage: float32 or float16, of every row. quarantine: why a digest's sequence has no row.

    Raises ShardError where the slabs do not add up, or where the disk is full or gives back other
    bytes; what stands at `path` then stays as it was.
    """
    with published(path) as temporary:
        with _writing(temporary, path) as file:
            with _disk_errors(path):
                file.attrs.update(_common_attributes() | dict(attributes))
                _create(file, count, width, storage)
            _write_slabs(file, path, slabs)
            if residues:
                _write_residues(file, path, residues, width, storage)
            if quarantine:
                with _disk_errors(path):
                    _write_quarantine(file, quarantine)
        seal(temporary)
        sync(temporary)
        _verify_written(temporary, path)


def _common_attributes() -> dict[str, str]:
    return {
        "format_version": FORMAT_VERSION,
        "package_versions": json.dumps({name: version(name) for name in PACKAGES}),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextmanager
def _writing(temporary: Path, path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file, closed at the end."""
    with _disk_errors(path):
        file = _create_file(temporary)
    try:
        yield file
    finally:
        with _disk_errors(path):
            file.close()


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Tell what HDF5 raises where the disk takes no more as ShardError, naming `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        message = f"{path}: cannot be written ({reason}); see that its disk has room and run again"
        raise ShardError(message) from error


def _create_file(path: Path) -> h5py.File:
    creation, access = (h5py.h5p.create(k) for k in (h5py.h5p.FILE_CREATE, h5py.h5p.FILE_ACCESS))
    creation.set_userblock(USER_BLOCK_BYTES)
    # The earliest format: every HDF5 reads it.
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_V18)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_file_locking(False, True)
    # Without this HDF5 holds small writes back, and h5py does not raise where one fails later.
    access.set_sieve_buf_size(0)
    return h5py.File(h5py.h5f.create(bytes(path), h5py.h5f.ACC_EXCL, creation, access))


def _create(file: h5py.File, count: int, width: int, storage: str) -> None:
    file.create_dataset("embeddings", (count, width), storage, track_times=False)
    for name, (shape, dtype) in COLUMNS.items():
        file.create_dataset(name, (count, *shape), dtype, track_times=False)


def _write_slabs(file: h5py.File, path: Path, slabs: Iterable[Slab]) -> None:
    written, count = 0, len(file["embeddings"])
    for slab in slabs:
        with _disk_errors(path):
            written = _write_slab(file, path, written, slab)
    if written != count:
        raise ShardError(f"{path}: {written:,} of {count:,} rows came; run again")


def _write_residues(
    file: h5py.File, path: Path, residues: TokenRows, width: int, storage: str
) -> None:
    written, total = 0, int(residues.offsets[-1])
    if not _are_offsets(residues.offsets, len(file["embeddings"]), total):
        raise ShardError(f"{path}: the token rows are not those of its sequences; run again")
    with _disk_errors(path):
        file.create_dataset(OFFSETS, data=residues.offsets, track_times=False)
        rows = file.create_dataset(RESIDUES, (total, width), storage, track_times=False)
    for part in residues.parts:
        stop = written + len(part)
        if stop > total or part.shape[1] != width:
            raise ShardError(f"{path}: more than {total:,} token rows of {width:,} came; run again")
        with _disk_errors(path):
            rows[written:stop] = part
        written = stop
    if written != total:
        raise ShardError(f"{path}: {written:,} of {total:,} token rows came; run again")


def _write_slab(file: h5py.File, path: Path, start: int, slab: Slab) -> int:
    """Write a slab from row `start` on; return the row after it."""
    stop, (count, width) = start + len(slab.lengths), file["embeddings"].shape
    # HDF5 would spread rows of one value over the whole width.
    if stop > count or slab.embeddings.shape[1] != width:
        found = f"rows up to {stop:,}, of {slab.embeddings.shape[1]:,} values, came"
        raise ShardError(f"{path}: {found}, not {count:,} of {width:,}; run again")
    for name in (*COLUMNS, "embeddings"):
        file[name][start:stop] = getattr(slab, name)
    return stop


def _write_quarantine(file: h5py.File, quarantine: Mapping[bytes, str]) -> None:
    digests = digest_rows(quarantine)
    for (name, (_, dtype)), data in zip(
        QUARANTINE.items(), (digests, list(quarantine.values())), strict=True
    ):
        file.create_dataset(name, data=data, dtype=dtype, track_times=False)


def _verify_written(temporary: Path, path: Path) -> None:
    try:
        verify_seal(temporary)
    except ShardError as error:
        message = f"{path}: the disk gave back other bytes than were written; check it, run again"
        raise ShardError(message) from error


class EmbeddingsFile:
    """A file of embeddings that was checked; `rows` (N, D) stay on disk.

    residues: the token rows, (total, D), on disk as well, or None.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self._file = path, file
        self.attributes: dict[str, str | int] = {
            # Numbers come as those of numpy.
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in file.attrs.items()
        }
        self.count, self.width = file["embeddings"].shape
        self.rows = _map(path, file["embeddings"])
        self.residues = _map(path, file[RESIDUES]) if RESIDUES in file else None

    def lengths(self) -> NDArray[np.int64]:
        """(N,) residues of each sequence."""
        return self._column("lengths")

    def digests(self) -> NDArray[np.uint8]:
        """(N, 16) digests."""
        return self._column("digests")

    def flags(self) -> NDArray[np.uint8]:
        """(N,) flags."""
        return self._column("flags")

    def offsets(self) -> NDArray[np.int64]:
        """(N + 1,) where the token rows of each sequence begin; there only with `residues`."""
        return self._column(OFFSETS)

    def quarantine(self) -> dict[bytes, str]:
        """Digests of the sequences that could not be embedded, and why."""
        if "quarantine" not in self._file:
            return {}
        digests, reasons = (self._file[name] for name in QUARANTINE)
        keys = (digest.tobytes() for digest in digests[:])
        return dict(zip(keys, reasons.asstr()[:].tolist(), strict=True))

    def _column(self, name: str) -> NDArray[Any]:
        column: NDArray[Any] = self._file[name][:]
        return column


def pool_token_rows(files: Sequence[EmbeddingsFile]) -> TokenRowPool | None:
    """The token rows of files, sequences numbered through; None where a file has none."""
    arrays = [file.residues for file in files if file.residues is not None]
    if len(arrays) < len(files):
        return None
    return TokenRowPool(arrays, [file.offsets() for file in files])


@contextmanager
def open_embeddings(path: Path) -> Iterator[EmbeddingsFile]:
    """Check every byte of a file without HDF5, then open it.

    Raises ShardError where it is not one of ours, damaged, or of another form or format version.
    """
    try:
        verify_seal(path)
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error}); remove it and run again") from error
    with file:
        _check_form(path, file)
        yield EmbeddingsFile(path, file)


def _check_form(path: Path, file: h5py.File) -> None:
    """Raise ShardError unless the file is of our version, shapes and dtypes."""
    _refuse_links(path, file)
    found, embeddings = file.attrs.get("format_version"), file.get("embeddings")
    if found != FORMAT_VERSION:
        raise ShardError(f"{path}: format version {found!r} is not known to this program")
    if not _are_rows(embeddings):
        raise ShardError(f"{path}: has no rows of {' or '.join(STORAGES)}; make it again")
    _check_columns(path, file, COLUMNS, len(embeddings))
    if "quarantine" in file:
        digests = file.get("quarantine/digests")
        count = len(digests) if isinstance(digests, h5py.Dataset) and digests.ndim else 0
        _check_columns(path, file, QUARANTINE, count)
    if RESIDUES in file or OFFSETS in file or file.attrs.get("per_residue"):
        _check_residues(path, file)


def _refuse_links(path: Path, file: h5py.Group) -> None:
    """Raise ShardError where what is read would come from another place than this file."""
    for name in file:
        link = file.get(name, getlink=True)
        held = file[name] if isinstance(link, h5py.HardLink) else None
        if held is None or (isinstance(held, h5py.Dataset) and (held.external or held.is_virtual)):
            raise ShardError(f"{path}: {name} does not lie in the file; remove it and run again")
        if isinstance(held, h5py.Group):
            _refuse_links(path, held)


def _check_columns(
    path: Path, file: h5py.File, columns: Mapping[str, tuple[tuple[int, ...], Any]], count: int
) -> None:
    for name, (shape, dtype) in columns.items():
        column, wanted = file.get(name), (count, *shape)
        if column is None or column.shape != wanted or column.dtype != np.dtype(dtype):
            raise ShardError(f"{path}: has no {name} of shape {wanted}; make it again")


def _are_rows(dataset: Any) -> bool:
    """Whether they are rows, one after the other, of a kind that we write."""
    if not isinstance(dataset, h5py.Dataset):
        return False
    return dataset.ndim == 2 and dataset.dtype.name in STORAGES and dataset.chunks is None


def _check_residues(path: Path, file: h5py.File) -> None:
    """Raise ShardError unless the token rows are those of the file's sequences."""
    rows, offsets = file.get(RESIDUES), file.get(OFFSETS)
    width, dtype = file["embeddings"].shape[1], file["embeddings"].dtype
    if not _are_rows(rows) or rows.shape[1] != width or rows.dtype != dtype:
        raise ShardError(f"{path}: has no token rows beside its rows; make it again")
    found = offsets[:] if isinstance(offsets, h5py.Dataset) and offsets.ndim else np.empty(0)
    if not _are_offsets(found, len(file["embeddings"]), len(rows)):
        raise ShardError(f"{path}: has no offsets of its token rows; make it again")


def _are_offsets(offsets: NDArray[Any], count: int, total: int) -> bool:
    """Whether they cut `total` token rows into those of `count` sequences."""
    if offsets.shape != (count + 1,) or offsets.dtype != np.int64:
        return False
    return bool(offsets[0] == 0 and offsets[-1] == total and (offsets[:-1] <= offsets[1:]).all())


def _map(path: Path, dataset: h5py.Dataset) -> NDArray[np.floating]:
    """The rows of a contiguous dataset, left on disk."""
    if not dataset.size:
        return np.empty(dataset.shape, dataset.dtype)
    offset = dataset.id.get_offset()
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)
