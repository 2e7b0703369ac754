"""The export embeddings.parquet: a row for each id, with its vector as a list of fixed size.

Columns: `id`, text; `length`, int64; `digest`, 16 bytes; `vector`, D float32 or float16. The key
`seqembed` of the metadata has the attributes of the result, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.export.result import Result, Slab
from seqembed.index.parquet import int64_array
from seqembed.machine.prefetch import prefetch

# The bytes of vectors in a row group: readers take row groups in parallel, and hold each whole.
GROUP_BYTES = 64 << 20
# float32 is compressed better, and no slower, if the first bytes of all numbers come first, and so
# on. duckdb does not read float16 in this order.
SPLIT_BYTES = {"float32": ["vector.list.element"]}
OPTIONS = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
    "write_statistics": ["id", "length"],
    "write_page_checksum": True,
}


def write_parquet(result: Result, temporary: Path, path: Path) -> None:
    """Write a result to a Parquet file, one row group at a time."""
    lengths, digests, stop = result.file.lengths(), result.file.digests(), 0
    schema = make_schema(result)
    split = SPLIT_BYTES.get(result.dtype.name, False)
    with pq.ParquetWriter(temporary, schema, use_byte_stream_split=split, **OPTIONS) as writer:
        for ids, rows in result.slabs(GROUP_BYTES):
            start, stop = stop, stop + len(ids)
            columns = [
                pa.array(ids, pa.string()),
                int64_array(lengths[start:stop]),
                _fixed(digests[start:stop].tobytes(), pa.binary(16), len(ids)),
                _vectors(rows, schema.field("vector").type),
            ]
            table = pa.table(columns, schema=schema)
            writer.write_table(table, row_group_size=max(1, len(ids)))


def read_parquet(result: Result, path: Path) -> Iterator[Slab]:
    """Yield the ids and vectors of a Parquet file that `write_parquet` wrote."""
    return prefetch(_read_groups(path))


def make_schema(result: Result) -> pa.Schema:
    value = pa.from_numpy_dtype(result.dtype)
    vector = pa.list_(pa.field("element", value, nullable=False), result.file.width)
    columns = {"id": pa.string(), "length": pa.int64(), "digest": pa.binary(16), "vector": vector}
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
    return pa.schema(fields, {"seqembed": json.dumps(result.describe())})


def _fixed(values: bytes, kind: pa.DataType, count: int) -> pa.Array:
    return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(values)])


def _vectors(rows: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return (n, D) rows as n lists, without a copy."""
    values = pa.Array.from_buffers(kind.value_type, rows.size, [None, pa.py_buffer(rows)])
    return pa.FixedSizeListArray.from_arrays(values, type=kind)


def _read_groups(path: Path) -> Iterator[Slab]:
    # A buffer would hold a whole row group beside the one that is made of it.
    with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        for number in range(file.num_row_groups):
            yield _read_group(file, number)


def _read_group(file: pq.ParquetFile, number: int) -> Slab:
    # Of all columns, the checksums of the pages are compared.
    group = file.read_row_group(number, use_threads=False)
    vector = group["vector"].combine_chunks()
    if isinstance(vector, pa.ChunkedArray):
        vector = pa.concat_arrays(vector.chunks)
    values = vector.flatten()
    rows = np.frombuffer(values.buffers()[1], values.type.to_pandas_dtype())
    rows = rows[values.offset : values.offset + len(values)]
    return group["id"].to_pylist(), rows.reshape(-1, vector.type.list_size)
