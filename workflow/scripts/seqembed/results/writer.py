"""Write the HDF5 files of embeddings, a slab of rows at a time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ShardError
from seqembed.machine.prefetch import prefetch
from seqembed.results.reader import (
    COLUMNS,
    FORMAT_VERSION,
    OFFSETS,
    QUARANTINE,
    RESIDUES,
    REUSED,
    are_offsets,
    slab_bounds,
)
from seqembed.results.rows import RowPool, TokenRows
from seqembed.results.seal import USER_BLOCK_BYTES, seal, verify_seal
from seqembed.storage.digests import digest_rows
from seqembed.storage.publish import published, sync

# One slab is written, and two more wait: to gather one takes now more, now less time.
SLABS_AHEAD = 2
PACKAGES = ("torch", "h5py", "numpy", "safetensors", "pyarrow")


@dataclass(frozen=True, kw_only=True, eq=False)
class Slab:
    """n consecutive rows of a file; raises ShardError if a column does not have its shape.

    lengths: (n,) int64. digests: (n, 16) uint8. flags: (n,) uint8. embeddings: (n, D).
    """

    sequence_ids: list[str]
    lengths: NDArray[np.int64]
    digests: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    embeddings: NDArray[np.floating]

    def __post_init__(self) -> None:
        n = len(self.sequence_ids)
        shapes = [self.lengths.shape, self.flags.shape, self.digests.shape, self.embeddings.shape]
        if shapes[:3] != [(n,), (n,), (n, 16)] or shapes[3][:-1] != (n,):
            raise ShardError(f"a slab has {n:,} ids beside columns of shapes {shapes}")


def cut_slabs(
    ids: Iterator[str],
    lengths: NDArray[np.int64],
    digests: NDArray[np.uint8],
    flags: NDArray[np.uint8],
    places: NDArray[np.int64],
    pool: RowPool,
) -> Iterator[Slab]:
    """Yield n rows of a file in slabs; then run `ids` to its end, where it may raise an error.

    ids: n ids. lengths: (n,). digests: (n, 16). flags: (n,). places: the rows' numbers in `pool`.
    """
    for start, stop in slab_bounds(len(places), pool.width):
        yield Slab(
            sequence_ids=list(islice(ids, stop - start)),
            lengths=lengths[start:stop],
            digests=digests[start:stop],
            flags=flags[start:stop],
            embeddings=pool.take(places[start:stop]),
        )
    deque(ids, maxlen=0)


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
    reused: tuple[NDArray[np.uint8], Sequence[str]] | None = None,
) -> None:
    """Write an HDF5 file of `count` rows of `width` values, seal it, and read it once more.

    storage: the dtype of all rows, "float32" or "float16". attributes: of the root, beside those
    that every file has. slabs: all rows, in order. residues: the token rows, or None. quarantine:
    the digests, 16 bytes each, of sequences without a row, with the reasons, or None. reused: the
    (M, 16) digests of a shard's rows that are in other files, and these files' paths, or None.

    Raises ShardError unless there are `count` rows, and as many token rows as `residues` says; also
    if the disk is full or gives back other bytes. A file at `path` then stays as it was.
    """
    with published(path) as temporary:
        with new_file(temporary, path, user_block=USER_BLOCK_BYTES) as file:
            with disk_errors(path):
                common = {
                    "format_version": FORMAT_VERSION,
                    "package_versions": json.dumps({name: version(name) for name in PACKAGES}),
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                file.attrs.update(common | dict(attributes))
                file.create_dataset("embeddings", (count, width), storage, track_times=False)
                for name, (shape, dtype) in COLUMNS.items():
                    file.create_dataset(name, (count, *shape), dtype, track_times=False)
            _write_slabs(file, path, slabs)
            if residues:
                _write_residues(file, path, residues)
            if quarantine:
                columns = digest_rows(quarantine), list(quarantine.values())
                _write_columns(file, path, QUARANTINE, columns)
            if reused:
                _write_columns(file, path, REUSED, reused)
        with ThreadPoolExecutor(1, "sync") as thread:
            synced = thread.submit(sync, temporary)
            seal(temporary)
            try:
                verify_seal(temporary)
            except ShardError as error:
                problem = "the disk gave back other bytes than were written; check the disk"
                raise ShardError(f"{path}: {problem}, and run again") from error
            synced.result()


@contextmanager
def new_file(
    temporary: Path, path: Path, *, user_block: int = 0, many_names: bool = False
) -> Iterator[h5py.File]:
    """Yield a new HDF5 file at `temporary`, then close it; an error of the disk names `path`.

    user_block: its bytes. many_names: whether groups get names by the hundred thousand; HDF5 1.8
    and newer read such a file, and any version reads another one.
    """
    kinds = h5py.h5p.FILE_CREATE, h5py.h5p.FILE_ACCESS
    creation, access = map(h5py.h5p.create, kinds)
    creation.set_userblock(user_block)
    # In the earliest format, HDF5 holds all names of a group in memory.
    oldest = h5py.h5f.LIBVER_V18 if many_names else h5py.h5f.LIBVER_EARLIEST
    access.set_libver_bounds(oldest, h5py.h5f.LIBVER_V18)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_file_locking(False, True)
    # With its buffer, HDF5 would hold small writes back, and h5py would not raise their errors.
    access.set_sieve_buf_size(0)
    with disk_errors(path):
        new = h5py.h5f.create(bytes(temporary), h5py.h5f.ACC_EXCL, creation, access)
        file = h5py.File(new)
    try:
        yield file
    finally:
        with disk_errors(path):
            file.close()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise ShardError, naming `path`, for an error of the disk or of HDF5 in the `with` block."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        message = f"{path}: cannot be written ({reason}); see that its disk has room and run again"
        raise ShardError(message) from error


def _write_slabs(file: h5py.File, path: Path, slabs: Iterable[Slab]) -> None:
    start, (count, width) = 0, file["embeddings"].shape
    for slab in prefetch(slabs, SLABS_AHEAD):
        stop = start + len(slab.lengths)
        # HDF5 would repeat the value of a row that has only one.
        if stop > count or slab.embeddings.shape[1] != width:
            found = f"{stop:,} or more rows of {slab.embeddings.shape[1]:,} values"
            raise ShardError(f"{path}: got {found}, not {count:,} of {width:,}; run again")
        # Writing rows needs no lock of Python, so that the next slab is computed meanwhile.
        with disk_errors(path):
            for name in ("embeddings", *COLUMNS):
                file[name][start:stop] = getattr(slab, name)
        start = stop
    if start != count:
        raise ShardError(f"{path}: got {start:,} of {count:,} rows; run again")


def _write_columns(
    file: h5py.File, path: Path, columns: Mapping[str, tuple[Any, Any]], data: Sequence[Any]
) -> None:
    """Write whole columns; columns: the name of each, and a pair whose second item is its dtype."""
    with disk_errors(path):
        for (name, (_, dtype)), values in zip(columns.items(), data, strict=True):
            file.create_dataset(name, data=values, dtype=dtype, track_times=False)


def _write_residues(file: h5py.File, path: Path, residues: TokenRows) -> None:
    written, total = 0, int(residues.offsets[-1])
    count, width = file["embeddings"].shape
    if not are_offsets(residues.offsets, count, total):
        problem = f"the offsets do not cut {total:,} token rows into those of {count:,} sequences"
        raise ShardError(f"{path}: {problem}; run again")
    with disk_errors(path):
        file.create_dataset(OFFSETS, data=residues.offsets, track_times=False)
        dtype = file["embeddings"].dtype
        rows = file.create_dataset(RESIDUES, (total, width), dtype, track_times=False)
    for part in residues.parts:
        stop = written + len(part)
        if stop > total or part.shape[1] != width:
            found = f"{stop:,} or more token rows of {part.shape[1]:,} values"
            raise ShardError(f"{path}: got {found}, not {total:,} of {width:,}; run again")
        with disk_errors(path):
            rows[written:stop] = part
        written = stop
    if written != total:
        raise ShardError(f"{path}: got {written:,} of {total:,} token rows; run again")
