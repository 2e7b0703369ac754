"""Write the HDF5 files of embeddings, a slab of rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ShardError
from seqembed.results.reader import (
    COLUMNS,
    FORMAT_VERSION,
    OFFSETS,
    QUARANTINE,
    RESIDUES,
    are_offsets,
)
from seqembed.results.rows import TokenRows
from seqembed.results.seal import USER_BLOCK_BYTES, seal, verify_seal
from seqembed.storage.digests import digest_rows
from seqembed.storage.publish import published, sync

Item = TypeVar("Item")

PACKAGES = ("torch", "h5py", "numpy", "safetensors", "pyarrow")


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
    """Write `count` rows of `width` values, slab by slab; seal the file, and read it once more.

    storage: float32 or float16, of every row. quarantine: why a digest's sequence has no row.

    Raises ShardError if the slabs do not add up, the disk is full, or it gives back other bytes;
    then a file at `path` stays as it was.
    """
    with published(path) as temporary:
        with _new_file(temporary, path) as file:
            with _disk_errors(path):
                file.attrs.update(_common_attributes() | dict(attributes))
                file.create_dataset("embeddings", (count, width), storage, track_times=False)
                for name, (shape, dtype) in COLUMNS.items():
                    file.create_dataset(name, (count, *shape), dtype, track_times=False)
            _write_slabs(file, path, slabs)
            if residues:
                _write_residues(file, path, residues)
            if quarantine:
                with _disk_errors(path):
                    _write_quarantine(file, quarantine)
        seal(temporary)
        with ThreadPoolExecutor(1, "sync") as thread:
            synced = thread.submit(sync, temporary)
            _verify_written(temporary, path)
            synced.result()


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the same items, each computed in a thread while the caller works on the one before.

    What computing an item raises is raised when its turn comes.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, "prefetch") as thread:
        coming = thread.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, source, end)
            yield cast(Item, item)


def _common_attributes() -> dict[str, str]:
    return {
        "format_version": FORMAT_VERSION,
        "package_versions": json.dumps({name: version(name) for name in PACKAGES}),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextmanager
def _new_file(temporary: Path, path: Path) -> Iterator[h5py.File]:
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
    """Turn what HDF5 raises when the disk takes no more into ShardError, naming `path`."""
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


def _write_slabs(file: h5py.File, path: Path, slabs: Iterable[Slab]) -> None:
    written, count = 0, len(file["embeddings"])
    for slab in prefetch(slabs):
        with _disk_errors(path):
            written = _write_slab(file, path, written, slab)
    if written != count:
        raise ShardError(f"{path}: got {written:,} of {count:,} rows; run again")


def _write_residues(file: h5py.File, path: Path, residues: TokenRows) -> None:
    written, total = 0, int(residues.offsets[-1])
    count, width = file["embeddings"].shape
    if not are_offsets(residues.offsets, count, total):
        raise ShardError(f"{path}: the token rows are not those of its sequences; run again")
    with _disk_errors(path):
        file.create_dataset(OFFSETS, data=residues.offsets, track_times=False)
        dtype = file["embeddings"].dtype
        rows = file.create_dataset(RESIDUES, (total, width), dtype, track_times=False)
    for part in residues.parts:
        stop = written + len(part)
        if stop > total or part.shape[1] != width:
            raise ShardError(
                f"{path}: got more than {total:,} token rows of {width:,} values; run again"
            )
        with _disk_errors(path):
            rows[written:stop] = part
        written = stop
    if written != total:
        raise ShardError(f"{path}: got {written:,} of {total:,} token rows; run again")


def _write_slab(file: h5py.File, path: Path, start: int, slab: Slab) -> int:
    """Write a slab from row `start` on; return the row after it."""
    stop, (count, width) = start + len(slab.lengths), file["embeddings"].shape
    # HDF5 would spread rows of one value over the whole width.
    if stop > count or slab.embeddings.shape[1] != width:
        found = f"rows up to {stop:,} of {slab.embeddings.shape[1]:,} values"
        raise ShardError(f"{path}: got {found}, not {count:,} of {width:,}; run again")
    # Rows first: they need no lock of Python, which the thread that computes the next slab holds.
    for name in ("embeddings", *COLUMNS):
        file[name][start:stop] = getattr(slab, name)
    return stop


def _write_quarantine(file: h5py.File, quarantine: Mapping[bytes, str]) -> None:
    columns = digest_rows(quarantine), list(quarantine.values())
    for (name, (_, dtype)), data in zip(QUARANTINE.items(), columns, strict=True):
        file.create_dataset(name, data=data, dtype=dtype, track_times=False)


def _verify_written(temporary: Path, path: Path) -> None:
    try:
        verify_seal(temporary)
    except ShardError as error:
        message = f"{path}: the disk gave back other bytes than were written; check it, run again"
        raise ShardError(message) from error
