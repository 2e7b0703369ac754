"""The export embeddings.h5ad: the file format of AnnData, which scanpy reads.

X is (N, D); obs has the ids as its index, and columns from the result, the index of its sequences
and a user's table; var has the names dim_0, dim_1, ...; uns["seqembed"] has the attributes of the
result. The layout is https://anndata.readthedocs.io/en/latest/fileformat-prose.html.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqembed.export.annotations import Annotations
from seqembed.export.described import read_described
from seqembed.export.result import Result, Slab
from seqembed.index.reader import read_file_counts
from seqembed.results.writer import disk_errors, new_file

OWN_COLUMNS = ("length", "file", "description", "flags")
EMPTY_GROUPS = ("layers", "obsm", "obsp", "varm", "varp")
TEXT = h5py.string_dtype("utf-8")


@dataclass(frozen=True, eq=False)
class Observations:
    """What obs is made of, beside the result: the index of its sequences, and perhaps a table."""

    index: Path
    annotations: Annotations | None
    logger: logging.Logger


def write_h5ad(result: Result, temporary: Path, path: Path, others: Observations) -> None:
    """Write an AnnData file; path: the final name, for messages.

    Raises ExportError if the index is not of the result's sequences, IndexFormatError if it is
    damaged.
    """
    with new_file(temporary, path) as file, disk_errors(path):
        _mark(file, "anndata", "0.1.0")
        shape = result.file.count, result.file.width
        rows = _array(file, "X", shape, result.dtype)
        obs, var = _frame(file, "obs", OWN_COLUMNS), _frame(file, "var", ())
        names = _texts(obs, "_index", shape[0])
        for (start, stop), (ids, slab) in zip(result.bounds(), result.slabs(), strict=True):
            rows[start:stop], names[start:stop] = slab, ids
        _texts(var, "_index", shape[1])[:] = [f"dim_{number}" for number in range(shape[1])]
        _array(obs, "length", shape[:1], np.int64)[:] = result.file.lengths()
        _array(obs, "flags", shape[:1], np.uint8)[:] = result.file.flags()
        _write_described(obs, result, others.index)
        if others.annotations:
            _write_annotations(obs, result, others.annotations, others.logger)
        for name in EMPTY_GROUPS:
            _mark(file.create_group(name), "dict", "0.1.0")
        _write_attributes(file, result)


def read_h5ad(result: Result, path: Path) -> Iterator[Slab]:
    """Yield the ids and rows of a file that `write_h5ad` wrote."""
    with h5py.File(path, "r", locking=False) as file:
        names, rows = file["obs/_index"].asstr(), file["X"]
        for start, stop in result.bounds():
            yield list(names[start:stop]), rows[start:stop]


def _write_described(obs: h5py.Group, result: Result, index: Path) -> None:
    """Write the descriptions and files of the ids, which the index has."""
    files = [str(file) for file, _ in read_file_counts(index)]
    numbers = {name: number for number, name in enumerate(files)}
    descriptions = _texts(obs, "description", result.file.count)
    codes = _categories(obs, "file", files, result.file.count)
    for start, _, texts, paths in read_described(result.file, index):
        stop = start + len(texts)
        descriptions[start:stop] = texts
        codes[start:stop] = [numbers[name] for name in paths]


def _write_annotations(
    obs: h5py.Group, result: Result, annotations: Annotations, logger: logging.Logger
) -> None:
    """Write a table's columns; ids that the table does not have get missing values."""
    rows = annotations.find(result, logger)
    for name, column in annotations.columns.items():
        if pa.types.is_string(column.type):
            _write_text(obs, name, column, rows)
        else:
            _write_numbers(obs, name, column, rows)
    obs.attrs["column-order"] = [*OWN_COLUMNS, *annotations.columns]


def _write_text(
    obs: h5py.Group, name: str, column: pa.ChunkedArray, rows: NDArray[np.int64]
) -> None:
    """Write a column of text as categories, as AnnData does, sorted; -1 is a missing value."""
    encoded = pa.concat_arrays([pa.array([], pa.string()), *column.chunks]).dictionary_encode()
    # Row -1, of an id that is not in the table, is the last one.
    codes = np.append(np.asarray(encoded.indices.fill_null(-1)), np.int32(-1))[rows]
    used = np.unique(codes[codes >= 0])
    texts = encoded.dictionary.take(pa.array(used, pa.int32())).to_pylist()
    order = np.array(sorted(range(len(texts)), key=texts.__getitem__), np.int64)
    # What is not used, and the missing value at the end, stay -1.
    numbers = np.full(len(encoded.dictionary) + 1, -1, np.int32)
    numbers[used[order]] = np.arange(len(order))
    _categories(obs, name, [texts[place] for place in order], len(rows))[:] = numbers[codes]


def _write_numbers(
    obs: h5py.Group, name: str, column: pa.ChunkedArray, rows: NDArray[np.int64]
) -> None:
    """Write a column of numbers: NaN is a missing double, and integers have a mask if one lacks."""
    whole = pa.concat_arrays([pa.array([], column.type), *column.chunks])
    missing = np.append(np.asarray(whole.is_null()), True)[rows]
    values = np.append(np.asarray(whole.fill_null(0)), np.zeros(1, whole.type.to_pandas_dtype()))
    values = values[rows]
    if values.dtype == np.float64:
        values[missing] = np.nan
    elif missing.any():
        group = obs.create_group(name)
        _mark(group, "nullable-integer", "0.1.0")
        _array(group, "values", values.shape, values.dtype)[:] = values
        _array(group, "mask", missing.shape, bool)[:] = missing
        return
    _array(obs, name, values.shape, values.dtype)[:] = values


def _write_attributes(file: h5py.File, result: Result) -> None:
    uns = file.create_group("uns")
    about = uns.create_group("seqembed")
    for group in (uns, about):
        _mark(group, "dict", "0.1.0")
    for name, value in result.describe().items():
        kind = "string" if isinstance(value, str) else "numeric-scalar"
        about[name] = value
        _mark(about[name], kind, "0.2.0")


def _mark(item: Any, kind: str, version: str) -> None:
    """Say of a dataset or group what it holds, in the words of AnnData."""
    item.attrs["encoding-type"], item.attrs["encoding-version"] = kind, version


def _frame(file: h5py.File, name: str, columns: Sequence[str]) -> h5py.Group:
    group = file.create_group(name)
    _mark(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    group.attrs["column-order"] = np.array(columns, TEXT)
    return group


def _array(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
    made = group.create_dataset(name, shape, dtype, track_times=False)
    _mark(made, "array", "0.2.0")
    return made


def _texts(group: h5py.Group, name: str, count: int) -> h5py.Dataset:
    made = group.create_dataset(name, (count,), TEXT, track_times=False)
    _mark(made, "string-array", "0.2.0")
    return made


def _categories(group: h5py.Group, name: str, texts: Sequence[str], count: int) -> h5py.Dataset:
    """Write the texts that a column takes its values from; return its codes, (count,) int32."""
    column = group.create_group(name)
    _mark(column, "categorical", "0.2.0")
    column.attrs["ordered"] = False
    _texts(column, "categories", len(texts))[:] = list(texts)
    return _array(column, "codes", (count,), np.int32)
