"""The split of an index into shards of distinct sequences, in processing order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.index.parquet import (
    FORMAT_VERSION,
    SHARD_SCHEMA,
    Digests,
    Int64s,
    damage_named,
    digest_column,
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
from seqembed.models.encoders.tokenization import Esm2Tokenizer, Tokenizer
from seqembed.settings.lengths import LengthPolicy
from seqembed.storage.digests import first_rows
from seqembed.storage.publish import published, remove_temporary

# A worker holds one group's residues in memory, a few times over while it reads them.
GROUP_BYTES = 1 << 20
GROUP_ROWS = 65_536
# The length, in tokens, at which attention costs as much as the rest of the model.
QUADRATIC_TOKENS = 3840
WHOLE = LengthPolicy(long_sequences="full", max_length=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sequences:
    """The columns of an index: (n,) each but `digests`, (n, 16), and `distinct`.

    distinct: the first rows of the sequences that are not excluded, ascending. tokens: without
    specials, 0 in excluded rows.
    """

    names: Any
    lengths: Int64s
    digests: Digests
    excluded: npt.NDArray[np.bool_]
    distinct: Int64s
    tokens: Int64s
    residues: ResidueFile

    def table(self, rows: Int64s) -> Any:
        """These rows, residues included, as a table of SHARD_SCHEMA."""
        lengths, names = self.lengths[rows], self.names.take(pa.array(rows))
        keys = pa.array([key.tobytes() for key in self.digests[rows]], pa.binary(16))
        residues = pa.array(map(self.residues.read, rows.tolist()), pa.binary())
        columns = [rows, names, lengths, keys, residues, self.tokens[rows]]
        return pa.table(columns, schema=SHARD_SCHEMA)


def split_index(
    index_path: Path,
    shard_paths: Sequence[Path],
    *,
    residues_path: Path | None = None,
    tokenizer: Tokenizer | None = None,
    policy: LengthPolicy = WHOLE,
    unit: str = "residues",
) -> int:
    """Write each distinct sequence, residues included, to one of the shards; return their number.

    Sequences that the index excludes are in none. residues_path: what write_index wrote beside the
    index; tokenizer: the model's; policy: how the model reads long sequences; unit: what its tokens
    are, in words.

    Raises:
        ConfigError: a sequence is too long for the policy; no shard is written then.
        IndexFormatError: the index or its file of residues is damaged.
    """
    if not shard_paths:
        raise ValueError("at least one shard is needed")
    shard_paths[0].parent.mkdir(parents=True, exist_ok=True)
    remove_temporary(shard_paths[0].parent)
    sequences = _read_sequences(
        index_path, residues_path or index_path.with_suffix(".bin"), tokenizer or Esm2Tokenizer()
    )
    with sequences.residues:
        _refuse_long(index_path, sequences, policy, unit)
        rows = sequences.distinct
        shards = _assign(rows, sequences.tokens[rows], policy, len(shard_paths))
        for rank, path in enumerate(shard_paths):
            _write_shard(path, sequences, shards[rank], rank, len(shards))
    return len(rows)


def _read_sequences(index_path: Path, residues_path: Path, tokenizer: Tokenizer) -> _Sequences:
    """The columns of an index, its distinct sequences counted in tokens."""
    excluded = read_excluded(index_path)
    with damage_named(index_path):
        table = read_columns(index_path, ["sequence_id", "length", "digest"])
        lengths, digests = int64_column(table["length"]), digest_column(table["digest"])
    check_rows(index_path, digests)
    firsts = first_rows(digests)
    distinct = np.flatnonzero((firsts == np.arange(len(firsts))) & ~excluded)
    residues = ResidueFile(residues_path, lengths, digests)
    tokens = np.zeros(len(firsts), np.int64)
    tokens[distinct] = [tokenizer.count(residues.read(row)) for row in distinct.tolist()]
    return _Sequences(
        names=table["sequence_id"],
        lengths=lengths,
        digests=digests,
        excluded=excluded,
        distinct=distinct,
        tokens=tokens[firsts],
        residues=residues,
    )


def _refuse_long(index_path: Path, sequences: _Sequences, policy: LengthPolicy, unit: str) -> None:
    """Raise ConfigError where the policy refuses any id that would get an embedding."""
    rows = np.flatnonzero(~sequences.excluded)
    policy.refuse(
        sequences.tokens[rows], unit, lambda places: describe_rows(index_path, rows[places])
    )


def _write_shard(
    path: Path, sequences: _Sequences, rows: Int64s, rank: int, world_size: int
) -> None:
    metadata = _metadata(rank, world_size, shard_fingerprint(sequences.digests[rows]))
    schema = SHARD_SCHEMA.with_metadata(metadata)
    with (
        published(Path(path)) as temporary,
        pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
    ):
        for group in _groups(rows, sequences.lengths):
            writer.write_table(sequences.table(group))


def _metadata(rank: int, world_size: int, fingerprint: str) -> dict[str, str]:
    own = {"rank": str(rank), "world_size": str(world_size), "fingerprint": fingerprint}
    return {"format_version": FORMAT_VERSION, "kind": "shard"} | own


def _predict_costs(tokens: Int64s, policy: LengthPolicy) -> npt.NDArray[np.float64]:
    """What (n,) sequences cost to embed, in tokens of short ones, (n,)."""
    read = policy.read(tokens)
    # Windows attend only to themselves.
    return read * (1 + read / policy.windows(tokens) / QUADRATIC_TOKENS)


def _assign(rows: Int64s, tokens: Int64s, policy: LengthPolicy, world_size: int) -> list[Int64s]:
    """Give each row, costliest first, to the least loaded shard; each is in processing order."""
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
