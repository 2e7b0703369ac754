"""The index of the input, and its split into shards of distinct sequences."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.errors import FastaError, IndexFormatError
from seqembed.fasta import MAX_ID_BYTES, Record, digest, read_records
from seqembed.files import published

FORMAT_VERSION = "1"
INDEX_BATCH_ROWS = 65_536

IdStyle = Literal["header", "file:header"]
Int64s = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint8]

INDEX_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("sequence_id", pa.string()),
        ("description", pa.string()),
        ("length", pa.int64()),
        ("file", pa.string()),
        ("byte_offset", pa.int64()),
        ("digest", pa.binary(16)),
    ]
)
SHARD_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("sequence_id", pa.string()),
        ("length", pa.int64()),
        ("digest", pa.binary(16)),
        ("residues", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """A shard without its residues, in processing order.

    `rows` and `lengths` are (n,) int64, `digests` is (n, 16) uint8.
    """

    rank: int
    world_size: int
    fingerprint: str
    rows: Int64s
    lengths: Int64s
    digests: Digests


class _Places:
    """Where each id was first seen, in about 200 bytes an id whatever its length."""

    def __init__(self) -> None:
        self._rows: dict[bytes, int] = {}
        self._lines = array("q")
        self._files: list[Path] = []
        self._first_rows: list[int] = []

    def begin(self, path: Path) -> None:
        self._files.append(path)
        self._first_rows.append(len(self._lines))

    def add(self, sequence_id: str, line: int) -> None:
        """Note an id; raises FastaError, naming both places, when it was seen before."""
        row = self._rows.setdefault(digest(sequence_id.encode()), len(self._lines))
        if row != len(self._lines):
            first = self._files[bisect_right(self._first_rows, row) - 1]
            message = f"this id was already used in {first}, line {self._lines[row]}; rename one"
            message += ", or set `ids: file:header` where the files differ"
            raise FastaError(message, path=self._files[-1], record=sequence_id, line=line)
        self._lines.append(line)


class IndexFingerprint:
    """Of the ids and digests of an index, in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)

    def update(self, sequence_ids: Sequence[str], digests: Iterable[bytes]) -> None:
        """Take the next rows: their ids, and digests of 16 bytes."""
        for sequence_id, key in zip(sequence_ids, digests, strict=True):
            # An id holds no NUL and a digest has 16 bytes: no two lists read the same.
            self._hash.update(sequence_id.encode() + b"\0" + key)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def write_index(files: Sequence[str | Path], output: Path, ids: IdStyle = "header") -> int:
    """Write the index of all records, in input order, as Parquet; return their number.

    Raises FastaError for whatever is wrong with the input, ValueError for an unknown `ids`.
    """
    if ids not in ("header", "file:header"):
        raise ValueError(f"ids must be 'header' or 'file:header', not {ids!r}")
    fingerprint, count = IndexFingerprint(), 0
    metadata = {"format_version": FORMAT_VERSION, "kind": "index"}
    with (
        published(Path(output)) as temporary,
        pq.ParquetWriter(temporary, INDEX_SCHEMA.with_metadata(metadata)) as writer,
    ):
        records = _index_rows(files, ids)
        while rows := list(islice(records, INDEX_BATCH_ROWS)):
            columns = [list(column) for column in zip(*rows, strict=True)]
            fingerprint.update(columns[1], columns[6])
            count += len(rows)
            writer.write_table(pa.table(columns, schema=INDEX_SCHEMA))
        writer.add_key_value_metadata({"fingerprint": fingerprint.hexdigest()})
    return count


def _index_rows(files: Sequence[str | Path], ids: IdStyle) -> Iterator[tuple[Any, ...]]:
    """Yield the index's columns of each record."""
    places, row = _Places(), 0
    for path in map(Path, files):
        places.begin(path)
        for record in read_records(path):
            name = _name(record, path, ids)
            places.add(name, record.line)
            size, key = len(record.residues), digest(record.residues)
            yield row, name, record.description, size, str(path), record.byte_offset, key
            row += 1


def _name(record: Record, path: Path, ids: IdStyle) -> str:
    if ids == "header":
        return record.sequence_id
    name = f"{path.name}:{record.sequence_id}"
    if len(name.encode()) > MAX_ID_BYTES:
        message = f"`file:header` makes an id over {MAX_ID_BYTES:,} bytes; shorten either"
        raise FastaError(message, path=path, record=record.sequence_id[:40], line=record.line)
    return name


def shard_fingerprint(digests: Digests) -> str:
    """Return the hex fingerprint of (n, 16) uint8 digests, in order."""
    return hashlib.blake2b(np.ascontiguousarray(digests).tobytes(), digest_size=32).hexdigest()


def read_shard_index(path: Path) -> ShardIndex:
    """Read a shard without its residues; raises IndexFormatError unless it is whole."""
    metadata = read_metadata(path, "shard")
    try:
        table = pq.read_table(path, columns=["row", "length", "digest"])
        rank, world_size = int(metadata["rank"]), int(metadata["world_size"])
        fingerprint = metadata["fingerprint"]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise IndexFormatError(f"{path}: damaged ({error}); remove it and run again") from error
    digests = digest_column(table["digest"])
    if shard_fingerprint(digests) != fingerprint:
        raise IndexFormatError(f"{path}: its fingerprint is wrong; remove it and run again")
    columns = table["row"].to_numpy(), table["length"].to_numpy(), digests
    return ShardIndex(rank, world_size, fingerprint, *columns)


def read_lengths_and_digests(path: Path) -> tuple[Int64s, Digests]:
    """(n,) lengths and (n, 16) digests of a whole index, in input order."""
    read_metadata(path, "index")
    try:
        table = pq.read_table(path, columns=["length", "digest"])
    except (OSError, pa.ArrowException) as error:
        raise IndexFormatError(f"{path}: damaged ({error}); remove it and run again") from error
    return table["length"].to_numpy(), digest_column(table["digest"])


def describe_rows(path: Path, rows: Int64s) -> list[str]:
    """Where rows of a whole index came from: "record 'ID' of FILE"."""
    read_metadata(path, "index")
    table = pq.read_table(path, columns=["sequence_id", "file"]).take(pa.array(rows))
    return [f"record {row['sequence_id']!r} of {row['file']}" for row in table.to_pylist()]


def digest_column(column: Any) -> Digests:
    """Return a fixed_size_binary(16) column as (n, 16) uint8."""
    # The buffer is read as it is: a list of Python objects would take six times the memory.
    parts = [np.empty(0, np.uint8)]
    for chunk in filter(len, column.chunks):
        parts.append(
            np.frombuffer(chunk.buffers()[1], np.uint8, 16 * len(chunk), 16 * chunk.offset)
        )
    return np.concatenate(parts).reshape(-1, 16)


def read_metadata(path: Path, *kinds: str) -> dict[str, str]:
    """Return a file's own metadata; raises IndexFormatError for other kinds or versions."""
    try:
        raw = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise IndexFormatError(f"{path}: cannot be read ({error}); run again") from error
    metadata = {k.decode(): v.decode() for k, v in raw.items() if k != b"ARROW:schema"}
    version = metadata.get("format_version")
    if metadata.get("kind") not in kinds or version != FORMAT_VERSION:
        found = f"kind {metadata.get('kind')!r}, format {version!r}"
        wanted = f"{' or '.join(map(repr, kinds))}, format {FORMAT_VERSION!r}"
        raise IndexFormatError(f"{path}: {found}, not {wanted}; remove it and run again")
    return metadata
