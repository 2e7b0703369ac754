"""Read the index of all sequences, and the indexes of shards."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.errors import IndexFormatError
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
from seqembed.index.sources import SourceNumbers, column_name

READ_BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """The index of a shard of n sequences, without residues, in processing order.

    fingerprint: a hash of the digests, in order. rows: the row of each sequence in the whole index,
    (n,) int64. lengths: in residues, (n,) int64. digests: (n, 16) uint8. tokens: how many tokens
    each sequence has, without special tokens, (n,) int64.
    """

    rank: int
    world_size: int
    fingerprint: str
    rows: Int64s
    lengths: Int64s
    digests: Digests
    tokens: Int64s


def encode_rows(rows: Iterable[tuple[str, str | None]], digests: Iterable[bytes]) -> bytes:
    """Return n rows of an index as bytes; the blake2b hash of all its rows is its fingerprint.

    rows: each row's id, and why the row gets no embedding; None if it gets one. digests: one for
    each row, of 16 bytes. Raises ValueError if there are more rows than digests, or fewer.
    """
    # Different rows give different bytes, because ids are not empty, ids and reasons hold no NUL,
    # and a digest has 16 bytes.
    return b"".join(
        b"%b\0%b" % (name.encode(), key)
        if reason is None
        else b"%b\0%b\0%b\0" % (name.encode(), key, reason.encode())
        for (name, reason), key in zip(rows, digests, strict=True)
    )


def shard_fingerprint(digests: Digests) -> str:
    """Return a shard's fingerprint: 64 hex characters, a hash of its (n, 16) digests, in order."""
    return hashlib.blake2b(np.ascontiguousarray(digests).tobytes(), digest_size=32).hexdigest()


def read_shard_index(path: Path) -> ShardIndex:
    """Return a shard's index without residues; raises IndexFormatError if the file is damaged."""
    metadata = read_metadata(path, "shard")
    with damage_named(path):
        # Older shards have no column of tokens, because each residue was a token.
        tokens = "tokens" if "tokens" in pq.read_schema(path).names else "length"
        table = read_columns(path, {"row", "length", "digest", tokens})
        rank, world_size = int(metadata["rank"]), int(metadata["world_size"])
        fingerprint = metadata["fingerprint"]
        rows, lengths, counts = (int64_column(table[name]) for name in ("row", "length", tokens))
    digests = digest_column(table["digest"])
    if shard_fingerprint(digests) != fingerprint:
        raise damage_error(path, "damaged (the fingerprint is wrong)")
    return ShardIndex(rank, world_size, fingerprint, rows, lengths, digests, counts)


def check_split(path: Path, fingerprint: str) -> None:
    """Raise IndexFormatError unless a shard's index still has this fingerprint."""
    if read_metadata(path, "shard")["fingerprint"] != fingerprint:
        message = "the sequences were split anew while a worker was at work with the old shards"
        raise IndexFormatError(f"{path}: {message}; finished rows are kept, run again")


def read_source_numbers(path: Path, recipe_fingerprint: str) -> SourceNumbers | None:
    """Return which source has each row of a shard under a recipe, (n,) int32; -1: none has.

    Return None if split found no source for the recipe. Raises IndexFormatError if the index is
    damaged.
    """
    name = column_name(recipe_fingerprint)
    with damage_named(path):
        if name not in pq.read_schema(path).names:
            return None
        column = read_columns(path, [name])[name].combine_chunks()
        return np.asarray(np.from_dlpack(column), np.int32)


def read_lengths_and_digests(path: Path) -> tuple[Int64s, Digests]:
    """Return the (n,) int64 lengths and (n, 16) uint8 digests of a whole index, in input order.

    Raises IndexFormatError if the index is damaged.
    """
    read_metadata(path, "index")
    with damage_named(path):
        table = read_columns(path, ["length", "digest"])
        return int64_column(table["length"]), digest_column(table["digest"])


def read_excluded(path: Path) -> npt.NDArray[np.bool_]:
    """Return which rows of an index get no embedding, (n,) bool; IndexFormatError if damaged."""
    read_metadata(path, "index")
    with damage_named(path):
        if "excluded" not in pq.read_schema(path).names:
            return np.zeros(pq.read_metadata(path).num_rows, bool)
    valid = read_columns(path, ["excluded"])["excluded"].is_valid().cast(pa.uint8())
    return np.from_dlpack(valid.combine_chunks()).view(bool)


def read_assigned(path: Path, rank: int, world_size: int) -> tuple[Int64s, Digests]:
    """Return the rows that a rank computes, (n,) int64, and their digests, (n, 16) uint8.

    Of a shard's index, these are all rows, in processing order; of a whole index, the rows rank,
    rank + world_size, ..., longest first, but none that gets no embedding. Raises IndexFormatError
    if the index is damaged, or is of a shard with another rank or world size.
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
    """Yield each id of a whole index, and why it gets no embedding; None if it gets one.

    Raises IndexFormatError if Parquet finds damage; read_checked_ids checks the fingerprint, too.
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


def read_described_ids(path: Path) -> Iterator[list[list[str]]]:
    """Yield the ids, descriptions and files of a whole index, READ_BATCH_ROWS rows at a time.

    Raises IndexFormatError if Parquet finds damage.
    """
    columns = ["sequence_id", "description", "file"]
    with damage_named(path), open_parquet(path) as index:
        for batch in index.iter_batches(READ_BATCH_ROWS, columns=columns):
            yield [batch[name].to_pylist() for name in columns]


def read_checked_ids(path: Path, digests: Digests) -> Iterator[tuple[str, str | None]]:
    """Yield each id of a whole index, and why it gets no embedding; None if it gets one.

    digests: of all rows of the index, (n, 16) uint8. Raises IndexFormatError, at the latest after
    the last id, unless ids, digests and reasons are those that were written.
    """
    fingerprint, unread = hashlib.blake2b(digest_size=32), read_ids_and_reasons(path)
    with damage_named(path):
        for begin in range(0, len(digests), READ_BATCH_ROWS):
            keys = [key.tobytes() for key in digests[begin : begin + READ_BATCH_ROWS]]
            rows = list(islice(unread, len(keys)))
            fingerprint.update(encode_rows(rows, keys))
            yield from rows
        # Parquet may read a flipped bit as another letter, or as an excluded row.
        if fingerprint.hexdigest() != read_metadata(path, "index")["fingerprint"]:
            raise ValueError("the fingerprint is wrong")


def check_rows(path: Path, digests: Digests) -> None:
    """Raise IndexFormatError unless an index's ids, reasons and digests fit its fingerprint."""
    deque(read_checked_ids(path, digests), maxlen=0)


def describe_rows(path: Path, rows: Int64s) -> list[str]:
    """Return "record 'ID' of FILE" for (m,) rows of an index; IndexFormatError if damaged."""
    read_metadata(path, "index")
    with damage_named(path):
        table = read_columns(path, ["sequence_id", "file"]).take(int64_array(rows))
    return [f"record {row['sequence_id']!r} of {row['file']}" for row in table.to_pylist()]


def read_id(path: Path, position: int) -> str:
    """Return the id in row `position`, from 0, of an index or a shard's index.

    Raises IndexFormatError if the file is damaged.
    """
    return str(read_columns(path, ["sequence_id"])["sequence_id"][position])


def read_file_counts(path: Path) -> list[tuple[Path, int]]:
    """Return the FASTA files of a whole index, in input order, each with its number of rows.

    Raises IndexFormatError if the index is damaged.
    """
    with damage_named(path):
        files = read_columns(path, ["file"], read_dictionary=["file"]).unify_dictionaries()["file"]
        # value_counts gives the files in the order in which they appear.
        return [(Path(c["values"]), c["counts"]) for c in files.value_counts().to_pylist()]


def find_changes(index: Path, folder: Path) -> Iterator[str]:
    """Yield a sentence for each FASTA file that is missing, or was changed since it was indexed.

    folder: the paths in the index are relative to this folder. Yields nothing for an index of an
    older version, which records no files. Raises IndexFormatError if the index cannot be read.
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
