"""Split an index into shards: each distinct sequence is in one shard, in processing order."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

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
from seqembed.index.reader import check_rows, describe_rows, read_excluded, shard_fingerprint
from seqembed.index.sources import SourceNumbers, Sources, column_name, write_sources
from seqembed.machine.screen import Report, no_report
from seqembed.models.encoders.tokenization import Tokenizer
from seqembed.settings.lengths import LengthPolicy
from seqembed.storage.digests import digest_all, first_rows
from seqembed.storage.publish import published, remove_temporary

# The largest row group, unless a single row is larger. A worker holds the residues of one row group
# in memory, in several copies while it reads them.
GROUP_BYTES = 1 << 20
GROUP_ROWS = 65_536


class _Sequences:
    """The n rows of an index, and their residues, which write_index wrote to a second file.

    excluded: which rows get no embedding, (n,) bool. distinct: the first row of each sequence to
    embed, (m,) int64, ascending. lengths: in residues, (n,) int64. digests: (n, 16) uint8. tokens:
    how many tokens each row's sequence has, without special tokens, (n,) int64; 0 if all rows of
    the sequence are excluded. Raises IndexFormatError if a file cannot be read or is damaged.
    """

    def __init__(
        self, index_path: Path, residues_path: Path, tokenizer: Tokenizer, report: Report
    ) -> None:
        self.excluded = read_excluded(index_path)
        with damage_named(index_path):
            self._table = read_columns(index_path, ["sequence_id", "length", "digest"])
            self.lengths = int64_column(self._table["length"])
            self.digests = digest_column(self._table["digest"])
        check_rows(index_path, self.digests)
        self._path, self._ends = residues_path, np.cumsum(self.lengths)
        # Raises IndexFormatError if the file cannot be opened.
        self.read(np.empty(0, np.int64))
        size, expected = residues_path.stat().st_size, int(self.lengths.sum())
        if size != expected or (self.lengths < 0).any():
            raise self._error(f"has {size:,} bytes, but its index has {expected:,} residues")
        firsts = first_rows(self.digests)
        self.distinct = np.flatnonzero((firsts == np.arange(len(firsts))) & ~self.excluded)
        counts = np.zeros(len(firsts), np.int64)
        for group in _groups(self.lengths[self.distinct].tolist()):
            rows = self.distinct[group]
            counts[rows] = list(map(tokenizer.count, self.read(rows)))
            report(0.5 * group.stop / len(self.distinct), group.stop)
        self.tokens = counts[firsts]

    def read(self, rows: Int64s) -> list[bytes]:
        """Return the residues of (k,) rows; raises IndexFormatError if a digest is wrong."""
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

    def write_shard(
        self,
        path: Path,
        places: Int64s,
        rank: int,
        world_size: int,
        columns: Mapping[str, SourceNumbers],
    ) -> None:
        """Write sequences, with their residues, as the index of a shard.

        places: (k,), their places in `distinct`, in the shard's order. columns: as in Sources.
        """
        rows = self.distinct[places]
        fingerprint = shard_fingerprint(self.digests[rows])
        metadata = {"format_version": FORMAT_VERSION, "kind": "shard", "rank": str(rank)}
        metadata |= {"world_size": str(world_size), "fingerprint": fingerprint}
        schema = SHARD_SCHEMA
        for recipe in columns:
            schema = schema.append(pa.field(column_name(recipe), pa.int32()))
        with (
            published(Path(path)) as temporary,
            pq.ParquetWriter(
                temporary, schema.with_metadata(metadata), write_page_checksum=True
            ) as writer,
        ):
            for group in _groups(self.lengths[rows].tolist()):
                part = rows[group]
                known = self._table.take(int64_array(part)).columns
                written = [part, *known, pa.array(self.read(part), pa.binary()), self.tokens[part]]
                written += [column[places[group]] for column in columns.values()]
                writer.write_table(pa.table(written, schema=schema))


def find_nothing(digests: Digests) -> Sources:
    """Return no sources, whatever the digests."""
    return Sources()


def split_index(
    index_path: Path,
    residues_path: Path,
    shard_paths: Sequence[Path],
    *,
    tokenizer: Tokenizer,
    policy: LengthPolicy,
    unit: str,
    find: Callable[[Digests], Sources] = find_nothing,
    report: Report = no_report,
) -> Sources:
    """Write each distinct sequence to one of the shards; return where rows are already.

    Sequences that the index excludes are left out. The shards are cut so that all take about as
    long to compute what no source has. residues_path: the file that write_index wrote beside the
    index. shard_paths: the file to write for each rank. tokenizer: counts the tokens of a sequence.
    policy: what is done with too long sequences. unit: what messages call tokens, "residues" or
    "tokens". find: returns the sources of the distinct sequences, by their digests.
    report: told which share is done.

    Raises:
        ConfigError: the policy refuses a sequence as too long; no shard is written.
        IndexFormatError: the index, or the file of residues, cannot be read or is damaged.
    """
    folder = shard_paths[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporary(folder)
    sequences = _Sequences(index_path, residues_path, tokenizer, report)
    kept, rows = np.flatnonzero(~sequences.excluded), sequences.distinct
    policy.refuse(
        sequences.tokens[kept], unit, lambda places: describe_rows(index_path, kept[places])
    )
    sources = find(sequences.digests[rows])
    shards = _assign(sequences.tokens[rows], policy, len(shard_paths), sources)
    for rank, path in enumerate(shard_paths):
        sequences.write_shard(path, shards[rank], rank, len(shards), sources.columns)
        written = sum(map(len, shards[: rank + 1]))
        report(0.5 + 0.5 * written / max(1, len(rows)), written)
    left = {
        recipe: [int((column[places] < 0).sum()) for places in shards]
        for recipe, column in sources.columns.items()
    }
    sources = replace(sources, count=len(kept), distinct=len(rows), left=left)
    write_sources(folder, sources)
    return sources


def _assign(
    tokens: Int64s, policy: LengthPolicy, world_size: int, sources: Sources
) -> list[Int64s]:
    """Return the sequences of each shard, in processing order, as one (k,) int64 array a rank.

    tokens: how many tokens each of the m distinct sequences has, (m,). First come the sequences
    that have no source, so that full batches can be made of them, then all others.
    """
    order = np.argsort(-tokens, kind="stable")
    tokens, done = tokens[order], sources.done(len(tokens))[order]
    costs = policy.costs(tokens)
    ranks = np.empty(len(tokens), np.int64)
    ranks[~done] = _share(costs[~done], world_size)
    # A checkpoint's folder is read by one worker, not by all.
    folders = sources.folders(len(tokens))[order[done]]
    groups = np.where(folders < 0, np.arange(len(folders)) + len(sources.sources), folders)
    _, groups = np.unique(groups, return_inverse=True)
    sums = np.bincount(groups, costs[done]).astype(np.float64)
    largest = np.argsort(-sums, kind="stable")
    shared = np.empty(len(sums), np.int64)
    shared[largest] = _share(sums[largest], world_size)
    ranks[done] = shared[groups]
    shards = []
    for rank in range(world_size):
        parts = [np.flatnonzero((ranks == rank) & wanted) for wanted in (~done, done)]
        shards.append(np.concatenate([part[arrange(tokens[part], policy)] for part in parts]))
    return [order[places] for places in shards]


def _share(costs: NDArray[np.float64], world_size: int) -> Int64s:
    """Return the rank of each of n items, (n,): in turn, that whose items cost least so far."""
    loads = [(0.0, rank) for rank in range(world_size)]
    ranks = np.empty(len(costs), np.int64)
    for place, cost in enumerate(costs.tolist()):
        load, rank = loads[0]
        ranks[place] = rank
        heapq.heapreplace(loads, (load + cost, rank))
    return ranks


def _groups(lengths: list[int]) -> Iterator[slice]:
    """Yield slices of at most GROUP_ROWS rows and GROUP_BYTES residues; one row may have more."""
    begin, size = 0, 0
    for place, length in enumerate(lengths):
        if place > begin and (size + length > GROUP_BYTES or place - begin == GROUP_ROWS):
            yield slice(begin, place)
            begin, size = place, 0
        size += length
    if lengths:
        yield slice(begin, len(lengths))
