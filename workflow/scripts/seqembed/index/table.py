"""Write the index of the input; read it and the indexes of shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.checks.residues import ResidueCheck
from seqembed.index.input_files import describe_files
from seqembed.index.parquet import (
    FORMAT_VERSION,
    INDEX_SCHEMA,
    Digests,
    Int64s,
    damage_error,
    damage_named,
    digest_column,
    int64_array,
    int64_column,
    open_parquet,
    read_columns,
    read_metadata,
)
from seqembed.index.sequence_ids import IdStyle, SequenceIds
from seqembed.models.encoders.tokenization import ESM2_LETTERS
from seqembed.storage.digests import digest_all
from seqembed.storage.publish import published

INDEX_BATCH_ROWS = 65_536
READ_BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """A shard's rows without residues, in processing order.

    `rows`, `lengths` and `tokens` (without specials) are (n,) int64, `digests` is (n, 16) uint8.
    """

    rank: int
    world_size: int
    fingerprint: str
    rows: Int64s
    lengths: Int64s
    digests: Digests
    tokens: Int64s


class IndexFingerprint:
    """Hashes the ids and digests of an index, in order, and why rows are excluded."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)

    def update(
        self,
        sequence_ids: Sequence[str],
        digests: Iterable[bytes],
        excluded: Iterable[str | None] | None = None,
    ) -> None:
        """Add rows: ids, digests of 16 bytes, and the reasons of excluded rows."""
        reasons = repeat(None, len(sequence_ids)) if excluded is None else excluded
        # Ids are not empty, ids and reasons hold no NUL, and a digest has 16 bytes: no two lists of
        # rows give the same bytes.
        rows = [
            sequence_id.encode() + b"\0" + key
            if reason is None
            else b"%b\0%b\0%b\0" % (sequence_id.encode(), key, reason.encode())
            for sequence_id, key, reason in zip(sequence_ids, digests, reasons, strict=True)
        ]
        self._hash.update(b"".join(rows))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def check(self, path: Path) -> None:
        """Raise IndexFormatError unless this is the fingerprint of the index at `path`.

        Parquet may read a flipped bit as another letter, or as an excluded row.
        """
        if self.hexdigest() != read_metadata(path, "index")["fingerprint"]:
            raise damage_error(path, "damaged")


def write_index(
    files: Sequence[str | Path],
    output: Path,
    ids: IdStyle = "header",
    check: ResidueCheck | None = None,
    residues: Path | None = None,
) -> int:
    """Write the index of all records, in input order, as Parquet; return their number.

    check: what becomes of residues, a fresh one; left out, all must be such as ESM-2 knows.
    residues: the path of a second file, of each row's residues after those of the row before. In
    the index's metadata are `gaps`, `ids`, and `files` as describe_files has them.

    Raises:
        FastaError: a file is not as it should be, or of another molecule.
        ResidueError: residues are not known, and `check` does not let them pass.
        ValueError: `ids` is unknown.
    """
    check = check or ResidueCheck(
        ESM2_LETTERS, "protein", "error", gaps="error", suspicious="error"
    )
    fingerprint, written = IndexFingerprint(), 0
    metadata = {"format_version": FORMAT_VERSION, "kind": "index", "gaps": check.gaps, "ids": ids}
    metadata |= {"files": describe_files(files)}
    # The index is renamed last: where it is, its residues are, too.
    with (
        published(Path(output)) as temporary,
        published(residues or Path(output).with_suffix(".bin")) as spool_path,
        spool_path.open("wb") as spool,
        pq.ParquetWriter(
            temporary, INDEX_SCHEMA.with_metadata(metadata), write_page_checksum=True
        ) as writer,
    ):
        batches = _index_rows(files, SequenceIds(ids), check, spool)
        for columns in _regroup(batches, INDEX_BATCH_ROWS):
            fingerprint.update(columns[1], columns[6], columns[7])
            written += len(columns[0])
            writer.write_table(pa.table(columns, schema=INDEX_SCHEMA))
        check.finish()
        writer.add_key_value_metadata({"fingerprint": fingerprint.hexdigest()})
    return written


def _index_rows(
    files: Sequence[str | Path], ids: SequenceIds, check: ResidueCheck, spool: IO[bytes]
) -> Iterator[list[Sequence[Any]]]:
    """Yield the index's columns of some records at a time; write their residues to `spool`."""
    row = 0
    for path in map(Path, files):
        ids.begin(path)
        for records, reasons in check.read(path):
            end = row + len(records)
            spool.write(b"".join(records.residues))
            yield [
                range(row, end),
                ids.name(records),
                records.descriptions,
                records.lengths.tolist(),
                [str(path)] * len(records),
                records.byte_offsets,
                digest_all(records.residues),
                reasons,
            ]
            row = end


def _regroup(batches: Iterable[Sequence[Sequence[Any]]], size: int) -> Iterator[list[list[Any]]]:
    """Regroup columns into groups of `size` rows; the last may have fewer."""
    held: list[list[Any]] = [[] for _ in INDEX_SCHEMA]
    for columns in batches:
        for column, more in zip(held, columns, strict=True):
            column.extend(more)
        while len(held[0]) >= size:
            yield [column[:size] for column in held]
            held = [column[size:] for column in held]
    if held[0]:
        yield held


def shard_fingerprint(digests: Digests) -> str:
    """Return the hex fingerprint of (n, 16) uint8 digests, in order."""
    return hashlib.blake2b(np.ascontiguousarray(digests).tobytes(), digest_size=32).hexdigest()


def read_shard_index(path: Path) -> ShardIndex:
    """Read a shard's index without residues; raises IndexFormatError if it is damaged."""
    metadata = read_metadata(path, "shard")
    with damage_named(path):
        # Older shards have no tokens: each residue was one.
        tokens = "tokens" if "tokens" in pq.read_schema(path).names else "length"
        table = read_columns(path, {"row", "length", "digest", tokens})
        rank, world_size = int(metadata["rank"]), int(metadata["world_size"])
        fingerprint = metadata["fingerprint"]
        rows, lengths, counts = (int64_column(table[name]) for name in ("row", "length", tokens))
    digests = digest_column(table["digest"])
    if shard_fingerprint(digests) != fingerprint:
        raise damage_error(path, "its fingerprint is wrong")
    return ShardIndex(rank, world_size, fingerprint, rows, lengths, digests, counts)


def read_lengths_and_digests(path: Path) -> tuple[Int64s, Digests]:
    """Return (n,) lengths and (n, 16) digests of a whole index, in input order."""
    read_metadata(path, "index")
    with damage_named(path):
        table = read_columns(path, ["length", "digest"])
        return int64_column(table["length"]), digest_column(table["digest"])


def read_excluded(path: Path) -> npt.NDArray[np.bool_]:
    """Return which rows of a whole index get no embedding, (n,) bool."""
    read_metadata(path, "index")
    with damage_named(path):
        if "excluded" not in pq.read_schema(path).names:
            return np.zeros(pq.read_metadata(path).num_rows, bool)
    valid = read_columns(path, ["excluded"])["excluded"].is_valid().cast(pa.uint8())
    return np.from_dlpack(valid.combine_chunks()).view(bool)


def read_assigned(path: Path, rank: int, world_size: int) -> tuple[Int64s, Digests]:
    """Return the (n,) rows of a rank and their (n, 16) digests, longest first.

    All rows of a shard's index; every world_size-th of a whole index. Raises IndexFormatError for
    another rank's shard.
    """
    if read_metadata(path, "shard", "index")["kind"] == "shard":
        shard = read_shard_index(path)
        if (shard.rank, shard.world_size) != (rank, world_size):
            found = f"is rank {shard.rank} of {shard.world_size}, not {rank} of {world_size}"
            raise damage_error(path, found)
        return np.arange(len(shard.rows)), shard.digests
    lengths, digests = read_lengths_and_digests(path)
    mine = np.arange(rank, len(lengths), world_size)
    mine = mine[~read_excluded(path)[mine]]
    mine = mine[np.argsort(-lengths[mine], kind="stable")]
    return mine, digests[mine]


def read_ids_and_reasons(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield each id of a whole index, and why it gets no embedding, or None.

    They are read in parts, as ids may be long.
    """
    read_metadata(path, "index")
    with damage_named(path), open_parquet(path) as index:
        known = "excluded" in index.schema_arrow.names
        columns = ["sequence_id", "excluded"] if known else ["sequence_id"]
        for batch in index.iter_batches(READ_BATCH_ROWS, columns=columns):
            texts = {batch[name].type for name in columns} == {pa.string()}
            if batch["sequence_id"].null_count or not texts:
                raise ValueError("an id or a reason is not text")
            names = batch["sequence_id"].to_pylist()
            reasons = batch["excluded"].to_pylist() if known else [None] * len(names)
            yield from zip(names, reasons, strict=True)


def check_rows(path: Path, digests: Digests) -> None:
    """Raise IndexFormatError unless ids, digests and reasons match the index's fingerprint."""
    fingerprint, names = IndexFingerprint(), read_ids_and_reasons(path)
    for begin in range(0, len(digests), READ_BATCH_ROWS):
        keys = [key.tobytes() for key in digests[begin : begin + READ_BATCH_ROWS]]
        rows = list(islice(names, len(keys)))
        fingerprint.update([name for name, _ in rows], keys, [reason for _, reason in rows])
    fingerprint.check(path)


def describe_rows(path: Path, rows: Int64s) -> list[str]:
    """Describe where rows of a whole index came from: "record 'ID' of FILE"."""
    read_metadata(path, "index")
    with damage_named(path):
        table = read_columns(path, ["sequence_id", "file"]).take(int64_array(rows))
    return [f"record {row['sequence_id']!r} of {row['file']}" for row in table.to_pylist()]


def read_id(path: Path, position: int) -> str:
    """Return the id of a row of an index or a shard's index, by its place in the file."""
    name: str = read_columns(path, ["sequence_id"])["sequence_id"][position].as_py()
    return name
