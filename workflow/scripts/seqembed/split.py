"""The split of an index into shards of distinct sequences, longest first."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.errors import FastaError
from seqembed.fasta import Record, digest, read_records
from seqembed.files import published
from seqembed.index import (
    FORMAT_VERSION,
    SHARD_SCHEMA,
    Digests,
    Int64s,
    digest_column,
    read_metadata,
    shard_fingerprint,
)

GROUP_BYTES = 16 << 20
GROUP_ROWS = 65_536
# The length, in tokens, at which attention costs as much as the rest of the model.
QUADRATIC_TOKENS = 3840


def split_index(index_path: Path, shard_paths: Sequence[Path]) -> int:
    """Write each distinct sequence, residues included, to one of the shards; return their number.

    Raises IndexFormatError for a damaged index, FastaError when a FASTA file changed since.
    """
    if not shard_paths:
        raise ValueError("at least one shard is needed")
    read_metadata(index_path, "index")
    columns = ["sequence_id", "length", "file", "digest"]
    table = pq.read_table(index_path, columns=columns, read_dictionary=["file"])
    names, lengths = table["sequence_id"], table["length"].to_numpy()
    digests = digest_column(table["digest"])
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
    return len(firsts)


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
