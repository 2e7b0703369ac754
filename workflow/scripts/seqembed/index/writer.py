"""Write the index of FASTA files, and a file with the residues of all its rows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.checks.residues import ResidueCheck
from seqembed.index.parquet import FORMAT_VERSION, INDEX_SCHEMA
from seqembed.index.reader import encode_rows
from seqembed.index.sequence_ids import IdStyle, SequenceIds
from seqembed.machine.screen import Report, no_report
from seqembed.storage.digests import digest_all
from seqembed.storage.publish import published

INDEX_BATCH_ROWS = 65_536


def write_index(
    files: Sequence[str | Path],
    output: Path,
    residues: Path,
    ids: IdStyle,
    check: ResidueCheck,
    report: Report = no_report,
) -> int:
    """Write the index of all records of FASTA files, in input order; return their number.

    output: the Parquet file to write. Its metadata records `gaps`, `ids`, and the path, the size in
    bytes and the modification time in ns of each file. residues: the second file to write, with the
    residues of all rows, one after the other. ids: how ids are made. check: a new ResidueCheck.
    report: told which share of the files is read, and how many records that is.

    Raises:
        FastaError: a file cannot be read, is not valid FASTA, repeats an id, or holds another
            molecule than the model's.
        ResidueError: `check` refuses gaps, or residues that the model does not know.
        OSError: a file cannot be written.
        ValueError: `ids` is unknown.
    """
    fingerprint, written = hashlib.blake2b(digest_size=32), 0
    states = [
        {"path": str(file), "size": state.st_size, "mtime_ns": state.st_mtime_ns}
        for file, state in zip(files, map(os.stat, files), strict=True)
    ]
    metadata = {"format_version": FORMAT_VERSION, "kind": "index", "gaps": check.gaps, "ids": ids}
    schema = INDEX_SCHEMA.with_metadata(metadata | {"files": json.dumps(states)})
    # The index is renamed last, so that there is no index without its residues.
    with (
        published(output) as temporary,
        published(residues) as spool_path,
        spool_path.open("wb") as spool,
        pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
    ):
        batches = _index_rows(files, SequenceIds(ids), check, spool, report)
        for columns in _regroup(batches, INDEX_BATCH_ROWS):
            rows = zip(columns[1], columns[7], strict=True)
            fingerprint.update(encode_rows(rows, columns[6]))
            written += len(columns[0])
            writer.write_table(pa.table(columns, schema=INDEX_SCHEMA))
        check.finish()
        writer.add_key_value_metadata({"fingerprint": fingerprint.hexdigest()})
    return written


def _index_rows(
    files: Sequence[str | Path],
    ids: SequenceIds,
    check: ResidueCheck,
    spool: IO[bytes],
    report: Report,
) -> Iterator[list[Sequence[Any]]]:
    """Yield the columns of INDEX_SCHEMA for each batch of records; write residues to `spool`."""
    row = before = 0
    total = max(1, sum(map(os.path.getsize, files)))

    def tell(position: int) -> None:
        report((before + position) / total, row)

    for path in map(Path, files):
        ids.begin(path)
        for records, reasons in check.read(path, tell):
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
        before += os.path.getsize(path)


def _regroup(batches: Iterable[Sequence[Sequence[Any]]], size: int) -> Iterator[list[list[Any]]]:
    """Yield the columns of all batches in groups of `size` rows; the last may have fewer."""
    held: list[list[Any]] = [[] for _ in INDEX_SCHEMA]
    for columns in batches:
        for column, more in zip(held, columns, strict=True):
            column.extend(more)
        while len(held[0]) >= size:
            yield [column[:size] for column in held]
            held = [column[size:] for column in held]
    if held[0]:
        yield held
