"""The index of the input, and its split into shards of distinct sequences."""

from __future__ import annotations

import hashlib
import heapq
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.errors import FastaError, IndexFormatError
from seqembed.fasta import MAX_ID_BYTES, Record, digest, read_records
from seqembed.files import published

FORMAT_VERSION = "1"
INDEX_BATCH_ROWS = 65_536
GROUP_BYTES = 16 << 20
GROUP_ROWS = 65_536
# The length, in tokens, at which attention costs as much as the rest of the model.
QUADRATIC_TOKENS = 3840

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


def write_index(files: Sequence[str | Path], output: Path, ids: IdStyle = "header") -> None:
    """Write the index of all records, in input order, as Parquet.

    Raises FastaError for whatever is wrong with the input, ValueError for an unknown `ids`.
    """
    if ids not in ("header", "file:header"):
        raise ValueError(f"ids must be 'header' or 'file:header', not {ids!r}")
    fingerprint = hashlib.blake2b(digest_size=32)
    metadata = {"format_version": FORMAT_VERSION, "kind": "index"}
    with (
        published(Path(output)) as temporary,
        pq.ParquetWriter(temporary, INDEX_SCHEMA.with_metadata(metadata)) as writer,
    ):
        records = _index_rows(files, ids)
        while rows := list(islice(records, INDEX_BATCH_ROWS)):
            for row in rows:
                # An id holds no NUL and a digest has 16 bytes: no two lists read the same.
                fingerprint.update(row[1].encode() + b"\0" + row[6])
            columns = [list(column) for column in zip(*rows, strict=True)]
            writer.write_table(pa.table(columns, schema=INDEX_SCHEMA))
        writer.add_key_value_metadata({"fingerprint": fingerprint.hexdigest()})


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


def split_index(index_path: Path, shard_paths: Sequence[Path]) -> None:
    """Write each distinct sequence, residues included, to one of the shards.

    Raises IndexFormatError for a damaged index, FastaError when a FASTA file changed since.
    """
    if not shard_paths:
        raise ValueError("at least one shard is needed")
    read_metadata(index_path, "index")
    columns = ["sequence_id", "length", "file", "digest"]
    table = pq.read_table(index_path, columns=columns, read_dictionary=["file"])
    names, lengths = table["sequence_id"], table["length"].to_numpy()
    digests = _digests(table["digest"])
    firsts = _first_rows(digests)
    shards = _assign(firsts, lengths[firsts], len(shard_paths))
    shard_paths[0].parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=shard_paths[0].parent) as spool:
        offsets = _spool(table["file"], digests, firsts, spool)
        for rank, (path, rows) in enumerate(zip(shard_paths, shards, strict=True)):
            metadata = _metadata(rank, len(shards), shard_fingerprint(digests[rows]))
            schema = SHARD_SCHEMA.with_metadata(metadata)
            with published(Path(path)) as temporary, pq.ParquetWriter(temporary, schema) as writer:
                for group in _groups(rows, lengths):
                    writer.write_table(_shard_table(names, lengths, digests, spool, offsets, group))


def _shard_table(
    names: Any,
    lengths: Int64s,
    digests: Digests,
    spool: IO[bytes],
    offsets: Int64s,
    rows: Int64s,
) -> Any:
    """Return these rows, residues included, as a table of SHARD_SCHEMA."""
    keys = pa.array([key.tobytes() for key in digests[rows]], pa.binary(16))
    places = zip(offsets[rows].tolist(), lengths[rows].tolist(), strict=True)
    residues = pa.array([_slice(spool, *place) for place in places], pa.binary())
    columns = [rows, names.take(pa.array(rows)), lengths[rows], keys, residues]
    return pa.table(columns, schema=SHARD_SCHEMA)


def _slice(spool: IO[bytes], offset: int, length: int) -> bytes:
    # One os.pread would end after 2 GiB and say nothing.
    spool.seek(offset)
    return spool.read(length)


def _metadata(rank: int, world_size: int, fingerprint: str) -> dict[str, str]:
    own = {"rank": str(rank), "world_size": str(world_size), "fingerprint": fingerprint}
    return {"format_version": FORMAT_VERSION, "kind": "shard"} | own


def _first_rows(digests: Digests) -> Int64s:
    """Return, ascending, the first row of each distinct digest of (n, 16) uint8."""
    keys = np.ascontiguousarray(digests).view("V16").reshape(-1)
    return np.sort(np.unique(keys, return_index=True)[1]).astype(np.int64)


def _assign(rows: Int64s, lengths: Int64s, world_size: int) -> list[Int64s]:
    """Give each row, costliest first, to the least loaded shard; each shard is longest first."""
    order = np.lexsort((rows, -lengths))
    tokens = lengths[order] + 2
    costs = tokens * (1 + tokens / QUADRATIC_TOKENS)
    loads = [(0.0, rank) for rank in range(world_size)]
    ranks = np.empty(len(rows), np.int64)
    for place, cost in enumerate(costs.tolist()):
        load, rank = loads[0]
        ranks[place] = rank
        heapq.heapreplace(loads, (load + cost, rank))
    return [rows[order][ranks == rank] for rank in range(world_size)]


def _spool(files: Any, digests: Digests, firsts: Int64s, spool: IO[bytes]) -> Int64s:
    """Write the residues of rows `firsts` to `spool`; return each row's offset, (n,) int64."""
    offsets = np.full(len(digests), -1, np.int64)
    wanted = np.zeros(len(digests), bool)
    wanted[firsts] = True
    row = 0
    for path, count in _file_counts(files):
        end = row + count
        for record in read_records(path):
            if row == end or digest(record.residues) != digests[row].tobytes():
                raise _changed(path, record)
            if wanted[row]:
                offsets[row] = spool.tell()
                spool.write(record.residues)
            row += 1
        if row != end:
            raise _changed(path)
    return offsets


def _file_counts(files: Any) -> list[tuple[Path, int]]:
    """Return (file, rows) in input order: each file's rows are consecutive."""
    counts: dict[str, int] = {}
    for chunk in files.chunks:
        # The dictionary is in order of appearance, which value_counts keeps.
        for item in chunk.value_counts().to_pylist():
            counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
    return [(Path(name), count) for name, count in counts.items()]


def _changed(path: Path, record: Record | None = None) -> FastaError:
    place = (record.sequence_id, record.line) if record else (None, None)
    message = "the file changed since it was indexed; run again, so that it is indexed anew"
    return FastaError(message, path=path, record=place[0], line=place[1])


def _groups(rows: Int64s, lengths: Int64s) -> Iterator[Int64s]:
    """Cut rows into groups of at most GROUP_ROWS, and of GROUP_BYTES unless one row is larger."""
    begin, size = 0, 0
    for place, length in enumerate(lengths[rows].tolist()):
        if place > begin and (size + length > GROUP_BYTES or place - begin == GROUP_ROWS):
            yield rows[begin:place]
            begin, size = place, 0
        size += length
    if begin < len(rows):
        yield rows[begin:]


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
    digests = _digests(table["digest"])
    if shard_fingerprint(digests) != fingerprint:
        raise IndexFormatError(f"{path}: its fingerprint is wrong; remove it and run again")
    columns = table["row"].to_numpy(), table["length"].to_numpy(), digests
    return ShardIndex(rank, world_size, fingerprint, *columns)


def _digests(column: Any) -> Digests:
    """Return a fixed_size_binary(16) column as (n, 16) uint8."""
    # The buffer is read as it is: a list of Python objects would take six times the memory.
    parts = [np.empty(0, np.uint8)]
    for chunk in filter(len, column.chunks):
        parts.append(
            np.frombuffer(chunk.buffers()[1], np.uint8, 16 * len(chunk), 16 * chunk.offset)
        )
    return np.concatenate(parts).reshape(-1, 16)


def read_metadata(path: Path, kind: str) -> dict[str, str]:
    """Return a file's own metadata; raises IndexFormatError for another kind or version."""
    try:
        raw = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise IndexFormatError(f"{path}: cannot be read ({error}); run again") from error
    metadata = {k.decode(): v.decode() for k, v in raw.items() if k != b"ARROW:schema"}
    version = metadata.get("format_version")
    if metadata.get("kind") != kind or version != FORMAT_VERSION:
        found = f"kind {metadata.get('kind')!r}, format {version!r}"
        wanted = f"{kind!r}, format {FORMAT_VERSION!r}"
        raise IndexFormatError(f"{path}: {found}, not {wanted}; remove it and run again")
    return metadata
