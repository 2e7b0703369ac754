"""Read the index of the input, and the indexes of shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.index.parquet import (
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
    """A hash of the ids and digests of an index, in order, and of the reasons of excluded rows."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)

    def update(
        self, sequence_ids: Sequence[str], digests: Iterable[bytes], reasons: Iterable[str | None]
    ) -> None:
        """Add rows: ids, digests of 16 bytes, and why each row is excluded, or None."""
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
        """Raise IndexFormatError unless this is the fingerprint of the index at `path`."""
        # Parquet may read a flipped bit as another letter, or as an excluded row.
        if self.hexdigest() != read_metadata(path, "index")["fingerprint"]:
            raise damage_error(path, "damaged")


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

    Of a shard's index these are all rows, of a whole index every world_size-th. Raises
    IndexFormatError for another rank's shard.
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
    """Yield each id of a whole index, and the reason why it gets no embedding, or None."""
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
    """Return the id of a row of an index or a shard's index; position: from 0, in the file."""
    name: str = read_columns(path, ["sequence_id"])["sequence_id"][position].as_py()
    return name


def read_file_counts(path: Path) -> list[tuple[Path, int]]:
    """Return the FASTA files of a whole index, in input order, and the number of rows of each."""
    counts: dict[str, int] = {}
    with damage_named(path):
        # The dictionary is in order of appearance, which value_counts keeps.
        for chunk in read_columns(path, ["file"], read_dictionary=["file"])["file"].chunks:
            for item in chunk.value_counts().to_pylist():
                counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
    return [(Path(name), count) for name, count in counts.items()]


def find_changes(index: Path, folder: Path) -> Iterator[str]:
    """Yield a sentence for each FASTA file that has changed since it was indexed.

    folder: paths in the index are relative to this folder. Indexes of older versions record no
    files. Raises IndexFormatError for an index that cannot be read.
    """
    for row in json.loads(read_metadata(index, "index").get("files", "[]")):
        path, size = row["path"], row["size"]
        try:
            state = (folder / path).stat()
        except OSError as error:
            yield f"{path} is missing ({error.strerror}), so it was not compared"
            continue
        if state.st_size != size:
            yield f"{path} has {state.st_size:,} bytes, but had {size:,} when it was indexed"
        elif state.st_mtime_ns != row["mtime_ns"]:
            what = "has another modification time than when it was indexed: it may have changed"
            yield f"{path} {what}"
