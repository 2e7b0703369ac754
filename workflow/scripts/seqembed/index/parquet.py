"""Read the Parquet files of an index and of its shards, and find damage in these files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.errors import IndexFormatError

FORMAT_VERSION = "1"

Int64s = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint8]

TYPES = dict.fromkeys(("row", "length", "byte_offset", "tokens"), pa.int64())
# `excluded` says why a sequence gets no embedding; null for all others.
TYPES |= dict.fromkeys(("sequence_id", "description", "file", "excluded"), pa.string())
TYPES |= {"digest": pa.binary(16), "residues": pa.binary()}
# How the names of the columns begin that sources.py describes; they are int32.
SOURCE = "source_"
_IN_INDEX = "row sequence_id description length file byte_offset digest excluded"
_IN_SHARD = "row sequence_id length digest residues tokens"
INDEX_SCHEMA, SHARD_SCHEMA = (
    pa.schema([(name, TYPES[name]) for name in names.split()]) for names in (_IN_INDEX, _IN_SHARD)
)


def damage_error(path: Path, problem: str) -> IndexFormatError:
    """Return the error for an index, or a shard's index, that is damaged or cannot be used.

    problem: what is wrong; the error's message adds the path and what to do.
    """
    # Snakemake makes the indexes of all shards together, since their folder is one output.
    what = path.parent if path.name.startswith("shard_") else "it"
    return IndexFormatError(f"{path}: {problem}; remove {what} and run again")


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Raise IndexFormatError for a damaged file if Arrow raises an error in the `with` block."""
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise damage_error(path, f"damaged ({error})") from error


def read_metadata(path: Path, *kinds: str) -> dict[str, str]:
    """Return the metadata of a Parquet file, as texts.

    kinds: the kinds of file that are allowed, "index" or "shard". Raises IndexFormatError if the
    file cannot be read, is of another kind or format version, or has no fingerprint.
    """
    try:
        raw = pq.read_metadata(path).metadata or {}
        metadata = {k.decode(): v.decode() for k, v in raw.items() if k != b"ARROW:schema"}
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise damage_error(path, f"cannot be read ({error})") from error
    version = metadata.get("format_version")
    if metadata.get("kind") not in kinds or version != FORMAT_VERSION:
        found = f"is of kind {metadata.get('kind')!r}, format {version!r}"
        wanted = f"{' or '.join(map(repr, kinds))}, format {FORMAT_VERSION!r}"
        raise damage_error(path, f"{found}, not of kind {wanted}")
    if "fingerprint" not in metadata:
        raise damage_error(path, "has no fingerprint")
    return metadata


def open_parquet(path: Path, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file; reading a damaged page raises an error. options: of pq.ParquetFile."""
    return pq.ParquetFile(path, page_checksum_verification=True, **options)


def read_columns(path: Path, columns: Iterable[str], **options: Any) -> pa.Table:
    """Return the named columns of a Parquet file, in this order. `options` go to pq.ParquetFile.

    Raises IndexFormatError if the file cannot be read, is damaged, or has no such column.
    """
    # pq.read_table, and to_numpy of a column, would import pandas, which takes 28 MB of memory.
    wanted = list(columns)
    with damage_named(path), open_parquet(path, **options) as file:
        # read() ignores missing columns; select() raises KeyError for them.
        return whole(file.read(wanted).select(wanted), file.metadata.num_rows)


def read_row_group(file: pq.ParquetFile, number: int, columns: list[str]) -> pa.Table:
    """Return the named columns of row group `number`, from 0.

    Raises ValueError, or an error of Arrow, if the row group is damaged.
    """
    group = file.read_row_group(number, columns=columns)
    return whole(group, file.metadata.row_group(number).num_rows)


def whole(table: pa.Table, count: int) -> pa.Table:
    """Return the table; ValueError unless each column has `count` rows and its right type."""
    # The footer has no checksum, and damage in it may change the length or type of a column.
    for name, column in zip(table.column_names, table.columns, strict=True):
        if len(column) != count:
            raise ValueError(f"column {name} has {len(column):,} rows, not {count:,}")
        wanted = pa.int32() if name.startswith(SOURCE) else TYPES[name]
        if column.type not in (wanted, pa.dictionary(pa.int32(), wanted)):
            raise ValueError(f"column {name} is of {column.type}, not {wanted}")
    return table


def int64_column(column: Any) -> Int64s:
    """Return an Arrow column of int64, without nulls, as a NumPy array, (n,) int64."""
    return np.asarray(np.from_dlpack(column.combine_chunks()), np.int64)


def int64_array(values: Int64s) -> Any:
    """Return a NumPy array, (n,) int64, as an Arrow array; pa.array would import pandas."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def digest_column(column: Any) -> Digests:
    """Return an Arrow column of digests, of 16 bytes each, as a NumPy array, (n, 16) uint8."""
    # Arrow's buffers are copied; a list of Python objects would take six times the memory.
    parts = [np.empty(0, np.uint8)]
    for part in filter(len, column.chunks):
        parts += [np.frombuffer(part.buffers()[1], np.uint8, 16 * len(part), 16 * part.offset)]
    return np.concatenate(parts).reshape(-1, 16)
