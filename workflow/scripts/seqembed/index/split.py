"""Split an index into shards of distinct sequences, in processing order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.index.parquet import (
    FORMAT_VERSION,
    SHARD_SCHEMA,
    Int64s,
    damage_named,
    digest_column,
    int64_array,
    int64_column,
    read_columns,
)
from seqembed.index.processing_order import arrange
from seqembed.index.spool import ResidueFile
from seqembed.index.table import (
    check_rows,
    describe_rows,
    read_excluded,
    shard_fingerprint,
)
from seqembed.models.encoders.tokenization import Tokenizer
from seqembed.settings.lengths import LengthPolicy
from seqembed.storage.digests import first_rows
from seqembed.storage.publish import published, remove_temporary

# A worker holds the residues of one group in memory, several times while it reads them.
GROUP_BYTES = 1 << 20
GROUP_ROWS = 65_536
# The length, in tokens, at which attention costs as much as the rest of the model.
QUADRATIC_TOKENS = 3840


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sequences:
    """The n rows of an index.

    table: ids, lengths and digests; excluded, (n,): rows without an embedding; tokens, (n,): of
    their sequences, without specials; distinct: the first row of each sequence to embed, ascending.
    """

    table: pa.Table
    residues: ResidueFile
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
    """Write each distinct sequence, residues included, to one of the shards; return their number.

    Sequences that the index excludes are left out. residues_path: the file that write_index wrote
    beside the index; unit: what messages call a token.

    Raises:
        ConfigError: a sequence is too long for the policy; no shard is written then.
        IndexFormatError: the index or its file of residues is damaged.
    """
    shard_paths[0].parent.mkdir(parents=True, exist_ok=True)
    remove_temporary(shard_paths[0].parent)
    with _open_sequences(index_path, residues_path, tokenizer) as sequences:
        _refuse_long(index_path, sequences, policy, unit)
        rows = sequences.distinct
        shards = _assign(rows, sequences.tokens[rows], policy, len(shard_paths))
        for rank, path in enumerate(shard_paths):
            _write_shard(path, sequences, shards[rank], rank, len(shards))
    return len(rows)


@contextmanager
def _open_sequences(
    index_path: Path, residues_path: Path, tokenizer: Tokenizer
) -> Iterator[_Sequences]:
    """Read the rows of an index, open their residues, and count the distinct ones' tokens."""
    excluded = read_excluded(index_path)
    with damage_named(index_path):
        table = read_columns(index_path, ["sequence_id", "length", "digest"])
        lengths, digests = int64_column(table["length"]), digest_column(table["digest"])
    check_rows(index_path, digests)
    firsts = first_rows(digests)
    distinct = np.flatnonzero((firsts == np.arange(len(firsts))) & ~excluded)
    tokens = np.zeros(len(firsts), np.int64)
    with ResidueFile(residues_path, lengths, digests) as residues:
        for group in _groups(lengths[distinct].tolist()):
            rows = distinct[group]
            tokens[rows] = list(map(tokenizer.count, residues.read(rows)))
        yield _Sequences(
            table=table,
            residues=residues,
            excluded=excluded,
            distinct=distinct,
            tokens=tokens[firsts],
        )


def _refuse_long(index_path: Path, sequences: _Sequences, policy: LengthPolicy, unit: str) -> None:
    """Raise ConfigError if the policy refuses a sequence to embed for its length."""
    rows = np.flatnonzero(~sequences.excluded)
    policy.refuse(
        sequences.tokens[rows], unit, lambda places: describe_rows(index_path, rows[places])
    )


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


def _predict_costs(tokens: Int64s, policy: LengthPolicy) -> npt.NDArray[np.float64]:
    """Return what sequences of (n,) tokens cost to embed, in tokens of short ones, (n,)."""
    read = policy.model_tokens(tokens)
    # Attention spans a window, not the sequence.
    return read * (1 + read / policy.windows(tokens) / QUADRATIC_TOKENS)


def _assign(rows: Int64s, tokens: Int64s, policy: LengthPolicy, world_size: int) -> list[Int64s]:
    """Give each row, costliest first, to the least loaded shard; return them in their order."""
    order = np.lexsort((rows, -tokens))
    rows, tokens = rows[order], tokens[order]
    costs = _predict_costs(tokens, policy)
    loads = [(0.0, rank) for rank in range(world_size)]
    ranks = np.empty(len(rows), np.int64)
    for place, cost in enumerate(costs.tolist()):
        load, rank = loads[0]
        ranks[place] = rank
        heapq.heapreplace(loads, (load + cost, rank))
    shards = [np.flatnonzero(ranks == rank) for rank in range(world_size)]
    return [rows[places[arrange(tokens[places], policy)]] for places in shards]


def _groups(lengths: list[int]) -> Iterator[slice]:
    """Cut rows of these lengths into groups of at most GROUP_ROWS, and GROUP_BYTES or one row."""
    begin, size = 0, 0
    for place, length in enumerate(lengths):
        if place > begin and (size + length > GROUP_BYTES or place - begin == GROUP_ROWS):
            yield slice(begin, place)
            begin, size = place, 0
        size += length
    if lengths:
        yield slice(begin, None)
