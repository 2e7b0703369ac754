"""Compare an HDF5 file with what it was made from: its index, the FASTA files and the weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import IndexFormatError, ModelError, count_of
from seqembed.fasta.reader import read_batches
from seqembed.index import reader as index_reader
from seqembed.index.parquet import read_metadata
from seqembed.index.sequence_ids import IdStyle, SequenceIds
from seqembed.models.prepared import read_prepared, sha256_of
from seqembed.models.source import list_weight_files
from seqembed.results.quarantine_table import HEADER, table_line
from seqembed.results.reader import EmbeddingsFile
from seqembed.storage.digests import DigestIndex, digest_all, digest_rows
from seqembed.verify.rows import are_quarantined, error_of, expect_attributes, read_ids, refuse

MODELS = Path("resources/models")
# A record's id, its digest, and the number of its header's line, from 1. The id is None if the
# index, of an older version, does not say how ids are made; the line is None for no record.
Record = tuple[str | None, bytes, int | None]


def check_merged(file: EmbeddingsFile, index: Path) -> list[tuple[str, str]]:
    """Compare an embeddings.h5 with its index and quarantine.tsv.

    Return the ids of sequences that workers could not embed, each with the reason. Raises
    ShardError unless each id of the index has its row, in order, or its line in quarantine.tsv;
    IndexFormatError if the index is damaged.
    """
    lengths, digests = index_reader.read_lengths_and_digests(index)
    index_reader.check_rows(index, digests)
    if file.attributes["index_fingerprint"] != read_metadata(index, "index")["fingerprint"]:
        message = f"was made from other ids or sequences than {index}"
        raise error_of(message, "run again, so that embeddings.h5 is made anew")
    quarantined = _compare_ids(file, index, digests)
    kept = ~(index_reader.read_excluded(index) | are_quarantined(file, digests))
    _check_columns(file, index, digests[kept], lengths[kept])
    if strange := int((DigestIndex(digests).find(digest_rows(file.quarantine())) < 0).sum()):
        raise error_of(f"quarantine/digests: {count_of(strange, 'digest')} not found in {index}")
    return quarantined


def check_shard(file: EmbeddingsFile, index: Path) -> None:
    """Raise ShardError unless the shard holds, in input order, the sequences of its index."""
    shard = index_reader.read_shard_index(index)
    own = {"rank": shard.rank, "world_size": shard.world_size}
    advice = "run again, so that the shard is made anew"
    expect_attributes(file, own | {"shard_fingerprint": shard.fingerprint}, f"in {index}", advice)
    order = np.argsort(shard.rows, kind="stable")
    reused, _ = file.reused()
    if (DigestIndex(shard.digests).find(reused) < 0).any():
        raise error_of(f"reused/digests names a sequence that {index} has not", advice)
    elsewhere = DigestIndex(reused).find(shard.digests[order]) >= 0
    kept = order[~elsewhere & ~are_quarantined(file, shard.digests[order])]
    _check_columns(file, index, shard.digests[kept], shard.lengths[kept])


def check_fasta(index: Path) -> list[str]:
    """Compare an index with its FASTA files, which are read again; return the missing files.

    Raises IndexFormatError if a file holds other ids or sequences than were indexed, FastaError if
    a file can no longer be read as FASTA.
    """
    missing, metadata = [], read_metadata(index, "index")
    style, without_gaps = metadata.get("ids"), metadata.get("gaps") == "remove"
    ids = SequenceIds(cast(IdStyle, style)) if style else None
    _, digests = index_reader.read_lengths_and_digests(index)
    names = (name for name, _ in index_reader.read_ids_and_reasons(index))
    rows = zip(names, map(bytes, digests), strict=True)
    for path, count in index_reader.read_file_counts(index):
        indexed = islice(rows, count)
        if path.exists():
            _compare_records(index, path, indexed, _read_records(path, ids, without_gaps))
        else:
            missing.append(str(path))
            deque(indexed, maxlen=0)
    return missing


def check_weights(file: EmbeddingsFile) -> list[str]:
    """Compare the SHA-256 of the model's files with that in an embeddings.h5; return missing files.

    The model's JSON file is looked for below the working folder, then below the folder that holds
    `results`. Raises ModelError if the weights, or the file that they were converted from, changed.
    """
    name = MODELS / f"{file.attributes['model']}.json"
    folders = [Path(), *file.path.absolute().parents[2:3]]
    path = next((folder / name for folder in folders if (folder / name).exists()), None)
    if path is None:
        return [str(name)]
    model = read_prepared(path)
    if model.sha256 != file.attributes["weights_sha256"]:
        message = f"was made with other weights than {path} describes"
        raise ModelError(f"{message}; run again, so that the result is made anew")
    missing = _check_files(Path(model.weights), model.sha256, path)
    if model.original and model.original_sha256:
        missing += _check_files(Path(model.original), model.original_sha256, path)
    return missing


def _compare_ids(
    file: EmbeddingsFile, index: Path, digests: NDArray[np.uint8]
) -> list[tuple[str, str]]:
    """Compare ids and quarantine.tsv with the index; return ids of failed sequences, and why."""
    path, reasons = file.path.with_name("quarantine.tsv"), file.quarantine()
    quarantined, id_place, line_place = [], "sequence_ids, row", f"{path}, line"
    ids, lines = enumerate(read_ids(file)), enumerate(_read_lines(path), 2)
    for row, (name, excluded) in enumerate(index_reader.read_ids_and_reasons(index)):
        reason = reasons.get(digests[row].tobytes()) if excluded is None else excluded
        if reason is None:
            _expect(name, ids, id_place, index)
            continue
        _expect(table_line(name, reason), lines, line_place, index)
        if excluded is None:
            quarantined.append((name, reason))
    _expect(None, ids, id_place, index)
    _expect(None, lines, line_place, index)
    return quarantined


def _expect(wanted: str | None, found: Iterator[tuple[int, str]], place: str, index: Path) -> None:
    """Raise ShardError unless the next text found is `wanted`; None: unless no text is left."""
    number, text = next(found, (None, None))
    if text != wanted:
        where = "after the last" if number is None else f"{number:,}"
        shown, expected = ("nothing" if t is None else repr(t) for t in (text, wanted))
        raise error_of(f"{place} {where}: {shown}, where {index} has {expected}")


def _read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of quarantine.tsv after the header; no line if the file is missing."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        if file.readline() != HEADER:
            raise error_of(f"{path}, line 1: is not the header")
        yield from (line.removesuffix("\n") for line in file)


def _check_columns(
    file: EmbeddingsFile, index: Path, digests: NDArray[np.uint8], lengths: NDArray[np.int64]
) -> None:
    """Raise ShardError unless the file has these (N, 16) digests and (N,) lengths, in order."""
    if file.count != len(digests):
        raise error_of(f"has {file.count:,} rows, but {index} has {len(digests):,} sequences")
    refuse(file, "digests", (file.digests() != digests).any(axis=1), f"differs from {index}")
    refuse(file, "lengths", file.lengths() != lengths, f"differs from {index}")


def _read_records(path: Path, ids: SequenceIds | None, without_gaps: bool) -> Iterator[Record]:
    """Yield the records of a FASTA file, with the ids that `ids` makes; if it is None, without."""
    if ids:
        ids.begin(path)
    for records in read_batches(path, without_gaps=without_gaps):
        names = ids.name(records) if ids else [None] * len(records)
        yield from zip(names, digest_all(records.residues), records.lines, strict=True)


def _compare_records(
    index: Path, path: Path, indexed: Iterator[tuple[str, bytes]], found: Iterator[Record]
) -> None:
    """Raise IndexFormatError unless the FASTA file has the indexed ids and digests, in order."""
    nothing: Record = (None, b"", None)
    for row, (name, digest, line) in zip_longest(indexed, found, fillvalue=nothing):
        if digest == row[1] and name in (None, row[0]):
            continue
        changed = f", line {line}: record {name or row[0]!r} is not as it was"
        what = changed if line else f": record {row[0]!r} is missing, which was there"
        advice = f"put the old file back, or run again with --forcerun {index} to embed this one"
        raise IndexFormatError(f"{path}{what} when {index} was made; {advice}")


def _check_files(weights: Path, sha256: str, path: Path) -> list[str]:
    """Return the missing weight files; if none is missing, raise ModelError for a wrong SHA-256."""
    files = list_weight_files(weights) if weights.exists() else [weights]
    missing = [str(file) for file in files if not file.exists()]
    if not missing and sha256_of(*files) != sha256:
        message = f"{weights}: is not the file that {path} describes; put the old file back"
        raise ModelError(f"{message}, or run again with --forcerun {path} to use this one")
    return missing
