"""The exports uniprot.h5 and uniprot_per_residue.h5: a dataset for each id, at the root of a file.

This is the layout of the embeddings that UniProt offers, and of bio_embeddings: a dataset (D,) of a
whole sequence, or (L, D) of its residues. Its name is the id; an id that HDF5 cannot hold as one
name is escaped. The attribute `original_id` of each dataset is the id itself. The root has the
attributes of the result, and `model_name`, which ProtSpace reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5p, h5s, h5t
from numpy.typing import NDArray

from seqembed.errors import ExportError
from seqembed.export.result import Result, Rows, Slab
from seqembed.results.writer import disk_errors, new_file

ORIGINAL_ID = b"original_id"
# HDF5 keeps so small a dataset in its header, which spares the file a second place for it.
COMPACT_BYTES = 32 << 10
# The type of a text in the file, and of the Python object in memory that h5py makes of it.
TEXT = h5t.py_create(h5py.string_dtype("utf-8"), logical=True)
OBJECT = h5t.py_create(h5py.string_dtype("utf-8"))


def dataset_name(sequence_id: str) -> str:
    """Return the name of an id's dataset: the id, or its escaped form; two ids never share a name.

    A `/` would name a group, and `.` the group itself: they become %2F and %2E. Ids that contain
    what an escaped id contains are escaped too.
    """
    odd = ("/", "%2F", "%25")
    if sequence_id not in (".", "%2E") and not any(part in sequence_id for part in odd):
        return sequence_id
    escaped = sequence_id.replace("%", "%25").replace("/", "%2F")
    return "%2E" if escaped == "." else escaped


def write_uniprot(result: Result, temporary: Path, path: Path) -> None:
    """Write a dataset (D,) for each id; path: the final name, for messages."""
    with new_file(temporary, path, many_names=True) as file, disk_errors(path):
        datasets = _Datasets(file, result)
        for ids, rows in result.slabs():
            for name, row in zip(ids, rows, strict=True):
                datasets.make(name, row.shape).write(h5s.ALL, h5s.ALL, row)


def write_per_residue(result: Result, temporary: Path, path: Path) -> None:
    """Write a dataset (L, D) for each id; path: the final name, for messages.

    Raises ExportError if the result has no token rows.
    """
    result.require_token_rows()
    with new_file(temporary, path, many_names=True) as file, disk_errors(path):
        datasets = _Datasets(file, result)
        for name, count, parts in result.token_rows():
            dataset = h5py.Dataset(datasets.make(name, (count, result.file.width)))
            begin = 0
            for part in parts:
                dataset[begin : begin + len(part)] = part
                begin += len(part)


def read_uniprot(result: Result, path: Path) -> Iterator[Slab]:
    """Yield the ids and rows of a file of `write_uniprot`, in the order of the result."""
    with h5py.File(path, "r", locking=False) as file:
        _require_names(result, path, file)
        for start, stop in result.bounds():
            ids = result.file.ids(start, stop)
            rows = np.empty((stop - start, result.file.width), result.dtype)
            yield list(_read_rows(file.id, ids, rows)), rows


def read_per_residue(result: Result, path: Path) -> Iterator[Slab]:
    """Yield the ids and token rows of a file of `write_per_residue`, in the order of the result."""
    with h5py.File(path, "r", locking=False) as file:
        _require_names(result, path, file)
        for name in result.ids():
            dataset = h5py.Dataset(_open(file.id, name))
            yield [_original_id(dataset.id)], np.empty((0, result.file.width), result.dtype)
            step = result.count_at_once(result.slab_bytes)
            for start in range(0, len(dataset), step):
                yield [], dataset[start : start + step]


class _Datasets:
    """Makes the datasets of a file; h5py's own functions would take four times as long."""

    def __init__(self, file: h5py.File, result: Result) -> None:
        file.attrs.update(result.describe())
        file.attrs["model_name"] = str(result.file.attributes.get("model", ""))
        self._root, self._type = file.id, h5t.py_create(result.dtype)
        self._small, self._large, self._link = map(
            h5p.create, (h5p.DATASET_CREATE, h5p.DATASET_CREATE, h5p.LINK_CREATE)
        )
        self._small.set_layout(h5d.COMPACT)
        for properties in (self._small, self._large):
            properties.set_obj_track_times(False)
        self._link.set_char_encoding(h5t.CSET_UTF8)
        self._scalar, self._itemsize = h5s.create(h5s.SCALAR), result.dtype.itemsize

    def make(self, sequence_id: str, shape: tuple[int, ...]) -> h5d.DatasetID:
        small = 0 < self._itemsize * prod(shape) <= COMPACT_BYTES
        name, space = dataset_name(sequence_id).encode(), h5s.create_simple(shape)
        properties = self._small if small else self._large
        made = h5d.create(self._root, name, self._type, space, properties, self._link)
        attribute = h5a.create(made, ORIGINAL_ID, TEXT, self._scalar)
        attribute.write(np.array(sequence_id, object), OBJECT)
        return made


def _require_names(result: Result, path: Path, file: h5py.File) -> None:
    if len(file) != result.file.count:
        found = f"has {len(file):,} datasets for {result.file.count:,} ids"
        raise ExportError(f"{path}: {found}; run again")


def _read_rows(root: Any, ids: Iterable[str], rows: Rows) -> Iterator[str]:
    """Fill (n, D) rows from the datasets of n ids, and yield the id that each of these has."""
    for name, row in zip(ids, rows, strict=True):
        dataset = _open(root, name)
        dataset.read(h5s.ALL, h5s.ALL, row)
        yield _original_id(dataset)


def _open(root: Any, sequence_id: str) -> h5d.DatasetID:
    return h5d.open(root, dataset_name(sequence_id).encode())


def _original_id(dataset: h5d.DatasetID) -> str:
    text: NDArray[Any] = np.zeros((), object)
    h5a.open(dataset, ORIGINAL_ID).read(text, OBJECT)
    raw: bytes = text.item()
    return raw.decode()
