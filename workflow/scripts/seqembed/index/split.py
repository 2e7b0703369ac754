"""Split an index into shards of distinct sequences, in processing order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.errors import IndexFormatError
from seqembed.index.parquet import (
    FORMAT_VERSION,
    SHARD_SCHEMA,
    Digests,
    Int64s,
    damage_named,
    digest_column,
    int64_array,
    int64_column,
    read_columns,
)
from seqembed.index.processing_order import arrange
from seqembed.index.table import check_rows, describe_rows, read_excluded, shard_fingerprint
from seqembed.models.encoders.tokenization import Tokenizer
from seqembed.settings.lengths import LengthPolicy
from seqembed.storage.digests import digest_all, first_rows
from seqembed.storage.publish import published, remove_temporary

# A worker holds the residues of one group in memory, several times while it reads them.
GROUP_BYTES = 1 << 20
GROUP_ROWS = 65_536
# The length, in tokens, at which attention costs as much as the rest of the model.
QUADRATIC_TOKENS = 3840


class _ResidueFile:
    """The file that write_index wrote beside an index: the residues of its n rows, in order.

    lengths, (n,), and digests, (n, 16), are the index's. Raises IndexFormatError if the file cannot
    be read, or has another size than these lengths make.
    """

    def __init__(self, path: Path, lengths: Int64s, digests: Digests) -> None:
        self.lengths, self.digests = lengths, digests
        self._path, self._ends = path, np.cumsum(lengths)
        # Raises if the file cannot be opened.
        self.read(np.empty(0, np.int64))
        size, expected = path.stat().st_size, int(lengths.sum())
        if size != expected or (lengths < 0).any():
            raise self._error(f"has {size:,} bytes, but its index has {expected:,} residues")

    def read(self, rows: Int64s) -> list[bytes]:
        """Return the residues of rows; raises IndexFormatError if a digest is wrong."""
        found, lengths = [], self.lengths[rows]
        begins = self._ends[rows] - lengths
        try:
            with self._path.open("rb") as file:
                for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
                    file.seek(begin)
                    found.append(file.read(length))
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error
        if b"".join(digest_all(found)) != self.digests[rows].tobytes():
            raise self._error("is damaged, or belongs to another index")
        return found

    def _error(self, problem: str) -> IndexFormatError:
        advice = f"remove {self._path} and run again, so that the FASTA files are indexed anew"
        return IndexFormatError(f"{self._path}: {problem}; {advice}")


@dataclass(frozen=True, eq=False)
class _Sequences:
    """The n rows of an index.

    table: ids, lengths and digests. excluded: which rows get no embedding, (n,). distinct: the
    first row of each sequence to embed, ascending. tokens: of each row's sequence, without
    specials, (n,).
    """

    table: pa.Table
    residues: _ResidueFile
    excluded: npt.NDArray[np.bool_]
    distinct: Int64s
    tokens: Int64s

    def take(self, rows: Int64s) -> pa.Table:
        """Return rows, residues included, as a table of SHARD_SCHEMA."""
        part = self.table.take(int64_array(rows))
        residues = pa.array(self.residues.read(rows), pa.binary())
        columns = [rows, *part.columns, residues, self.tokens[rows]]
        return pa.table(columns, schema=SHARD_SCHEMA)


def split_index(
    index_path: Path,
    residues_path: Path,
    shard_paths: Sequence[Path],
    *,
    tokenizer: Tokenizer,
    policy: LengthPolicy,
    unit: str,
) -> int:
    """Write each distinct sequence to one of the shards; return the number of sequences.

    Sequences that the index excludes are left out. residues_path: the file that write_index wrote
    beside the index; unit: what messages call a token.

    Raises:
        ConfigError: a sequence is too long for the policy; no shard is written then.
        IndexFormatError: the index or its file of residues is damaged.
    """
    shard_paths[0].parent.mkdir(parents=True, exist_ok=True)
    remove_temporary(shard_paths[0].parent)
    sequences = _read_sequences(index_path, residues_path, tokenizer)
    kept, rows = np.flatnonzero(~sequences.excluded), sequences.distinct
    policy.refuse(
        sequences.tokens[kept], unit, lambda places: describe_rows(index_path, kept[places])
    )
    shards = _assign(rows, sequences.tokens[rows], policy, len(shard_paths))
    for rank, path in enumerate(shard_paths):
        _write_shard(path, sequences, shards[rank], rank, len(shards))
    return len(rows)


def _read_sequences(index_path: Path, residues_path: Path, tokenizer: Tokenizer) -> _Sequences:
    """Read and check the rows of an index, and count the tokens of its sequences."""
    excluded = read_excluded(index_path)
    with damage_named(index_path):
        table = read_columns(index_path, ["sequence_id", "length", "digest"])
        lengths, digests = int64_column(table["length"]), digest_column(table["digest"])
    check_rows(index_path, digests)
    firsts = first_rows(digests)
    distinct = np.flatnonzero((firsts == np.arange(len(firsts))) & ~excluded)
    tokens = np.zeros(len(firsts), np.int64)
    residues = _ResidueFile(residues_path, lengths, digests)
    for group in _groups(lengths[distinct].tolist()):
        rows = distinct[group]
        tokens[rows] = list(map(tokenizer.count, residues.read(rows)))
    return _Sequences(table, residues, excluded, distinct, tokens[firsts])


def _write_shard(
    path: Path, sequences: _Sequences, rows: Int64s, rank: int, world_size: int
) -> None:
    lengths, digests = sequences.residues.lengths[rows], sequences.residues.digests[rows]
    metadata = {"format_version": FORMAT_VERSION, "kind": "shard", "rank": str(rank)}
    metadata |= {"world_size": str(world_size), "fingerprint": shard_fingerprint(digests)}
    schema = SHARD_SCHEMA.with_metadata(metadata)
    with (
        published(Path(path)) as temporary,
        pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
    ):
        for group in _groups(lengths.tolist()):
            writer.write_table(sequences.take(rows[group]))


def _assign(rows: Int64s, tokens: Int64s, policy: LengthPolicy, world_size: int) -> list[Int64s]:
    """Return the rows of each shard, in processing order.

    Each row, costliest first, goes to the shard whose rows cost least so far.
    """
    order = np.lexsort((rows, -tokens))
    rows, tokens = rows[order], tokens[order]
    read = policy.model_tokens(tokens)
    # A token of a short sequence costs 1. Attention spans a window, not the sequence.
    costs = read * (1 + read / policy.windows(tokens) / QUADRATIC_TOKENS)
    loads = [(0.0, rank) for rank in range(world_size)]
    ranks = np.empty(len(rows), np.int64)
    for place, cost in enumerate(costs.tolist()):
        load, rank = loads[0]
        ranks[place] = rank
        heapq.heapreplace(loads, (load + cost, rank))
    shards = [np.flatnonzero(ranks == rank) for rank in range(world_size)]
    return [rows[places[arrange(tokens[places], policy)]] for places in shards]


def _groups(lengths: list[int]) -> Iterator[slice]:
    """Yield groups of rows: at most GROUP_ROWS, and at most GROUP_BYTES of residues or one row."""
    begin, size = 0, 0
    for place, length in enumerate(lengths):
        if place > begin and (size + length > GROUP_BYTES or place - begin == GROUP_ROWS):
            yield slice(begin, place)
            begin, size = place, 0
        size += length
    if lengths:
        yield slice(begin, None)
