"""The split of an index into shards of distinct sequences, in processing order."""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.errors import FastaError
from seqembed.fasta.reader import read_batches
from seqembed.fasta.records import Record, Records
from seqembed.index.input_files import read_file_counts, reads_without_gaps
from seqembed.index.parquet import (
    FORMAT_VERSION,
    SHARD_SCHEMA,
    Digests,
    Int64s,
    damage_named,
    digest_column,
    read_columns,
)
from seqembed.index.processing_order import arrange
from seqembed.index.table import (
    check_rows,
    describe_rows,
    read_excluded,
    shard_fingerprint,
)
from seqembed.models.encoders.tokenization import Esm2Tokenizer, Tokenizer
from seqembed.settings.lengths import LengthPolicy
from seqembed.storage.digests import digest_all, first_rows
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

    tokens: without specials, 0 in excluded rows. offsets: where in `spool` the residues of the
    rows `distinct` begin; these are the first of each sequence that is not excluded, ascending.
    """

    names: Any
    lengths: Int64s
    digests: Digests
    excluded: npt.NDArray[np.bool_]
    distinct: Int64s
    tokens: Int64s
    offsets: Int64s
    spool: IO[bytes]

    def table(self, rows: Int64s) -> Any:
        """These rows, residues included, as a table of SHARD_SCHEMA."""
        lengths, names = self.lengths[rows], self.names.take(pa.array(rows))
        keys = pa.array([key.tobytes() for key in self.digests[rows]], pa.binary(16))
        places = zip(self.offsets[rows].tolist(), lengths.tolist(), strict=True)
        residues = pa.array([_slice(self.spool, *place) for place in places], pa.binary())
        columns = [rows, names, lengths, keys, residues, self.tokens[rows]]
        return pa.table(columns, schema=SHARD_SCHEMA)


def split_index(
    index_path: Path,
    shard_paths: Sequence[Path],
    *,
    tokenizer: Tokenizer | None = None,
    policy: LengthPolicy = WHOLE,
    unit: str = "residues",
) -> int:
    """Write each distinct sequence, residues included, to one of the shards; return their number.

    Sequences that the index excludes are in none. tokenizer: the model's, left out ESM-2's;
    policy: how the model reads long sequences; unit: what its tokens are, in words.

    Raises:
        ConfigError: a sequence is too long for the policy; no shard is written then.
        FastaError: a FASTA file changed since it was indexed.
        IndexFormatError: the index is damaged.
    """
    if not shard_paths:
        raise ValueError("at least one shard is needed")
    shard_paths[0].parent.mkdir(parents=True, exist_ok=True)
    remove_temporary(shard_paths[0].parent)
    with tempfile.TemporaryFile(dir=shard_paths[0].parent) as spool:
        sequences = _read_sequences(index_path, tokenizer or Esm2Tokenizer(), spool)
        _refuse_long(index_path, sequences, policy, unit)
        rows = sequences.distinct
        shards = _assign(rows, sequences.tokens[rows], policy, len(shard_paths))
        for rank, path in enumerate(shard_paths):
            _write_shard(path, sequences, shards[rank], rank, len(shards))
    return len(rows)


def _read_sequences(index_path: Path, tokenizer: Tokenizer, spool: IO[bytes]) -> _Sequences:
    """The columns of an index, its distinct sequences counted in tokens and written to `spool`."""
    excluded = read_excluded(index_path)
    with damage_named(index_path):
        table = read_columns(index_path, ["sequence_id", "digest"])
        digests, files = digest_column(table["digest"]), read_file_counts(index_path)
        check_rows(index_path, digests)
    firsts = first_rows(digests)
    wanted = (firsts == np.arange(len(firsts))) & ~excluded
    without_gaps = reads_without_gaps(index_path)
    offsets, lengths, tokens = _spool(files, digests, wanted, tokenizer, spool, without_gaps)
    return _Sequences(
        names=table["sequence_id"],
        lengths=lengths,
        digests=digests,
        excluded=excluded,
        distinct=np.flatnonzero(wanted),
        tokens=tokens[firsts],
        offsets=offsets,
        spool=spool,
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


def _slice(spool: IO[bytes], offset: int, length: int) -> bytes:
    residues = os.pread(spool.fileno(), length, offset)
    if len(residues) == length:
        return residues
    # The system reads at most 2 GiB at once.
    spool.seek(offset)
    return spool.read(length)


def _metadata(rank: int, world_size: int, fingerprint: str) -> dict[str, str]:
    own = {"rank": str(rank), "world_size": str(world_size), "fingerprint": fingerprint}
    return {"format_version": FORMAT_VERSION, "kind": "shard"} | own


def _predict_costs(tokens: Int64s, policy: LengthPolicy) -> npt.NDArray[np.float64]:
    """What (n,) sequences cost to embed, in tokens of short ones, (n,)."""
    read = policy.model_tokens(tokens)
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


def _spool(
    files: list[tuple[Path, int]],
    digests: Digests,
    wanted: npt.NDArray[np.bool_],
    tokenizer: Tokenizer,
    spool: IO[bytes],
    without_gaps: bool,
) -> tuple[Int64s, Int64s, Int64s]:
    """Write the residues of wanted rows to `spool`; without_gaps: as the files were indexed.

    Return each row's offset in it, its length, and, of wanted rows, its tokens; (n,) each.
    """
    offsets = np.full(len(digests), -1, np.int64)
    lengths, tokens = np.zeros((2, len(digests)), np.int64)
    row = written = 0
    for path, count in files:
        end = row + count
        for records in read_batches(path, without_gaps=without_gaps):
            _refuse_changed(path, records, digests[row:end])
            here = slice(row, row + len(records))
            lengths[here] = records.lengths
            places = row + np.flatnonzero(wanted[here])
            kept = [records.residues[place] for place in (places - row).tolist()]
            ends = written + lengths[places].cumsum()
            offsets[places] = ends - lengths[places]
            tokens[places] = [tokenizer.count(residues) for residues in kept]
            written += spool.write(b"".join(kept))
            row = here.stop
        if row != end:
            raise _changed(path)
    # It is read without its buffer.
    spool.flush()
    return offsets, lengths, tokens


def _refuse_changed(path: Path, records: Records, digests: Digests) -> None:
    """Raise FastaError unless the next digests of a file are those of its next records."""
    keys = digest_all(records.residues)
    if b"".join(keys) == digests[: len(keys)].tobytes():
        return
    indexed = (key.tobytes() for key in digests)
    pairs = zip(records, zip_longest(keys, islice(indexed, len(keys))), strict=True)
    raise _changed(path, next(record for record, (key, old) in pairs if key != old))


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
