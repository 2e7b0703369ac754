"""Compare the FASTA files and the weights that a result was made from with what it records."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import cast

from seqembed.errors import IndexFormatError, ModelError
from seqembed.fasta.reader import read_batches
from seqembed.index.parquet import read_metadata
from seqembed.index.sequence_ids import IdStyle, SequenceIds
from seqembed.index.table import read_file_counts, read_ids_and_reasons, read_lengths_and_digests
from seqembed.models.prepared import read_prepared, sha256_of
from seqembed.models.source import list_weight_files
from seqembed.results.reader import EmbeddingsFile
from seqembed.storage.digests import digest_all

MODELS = Path("resources/models")
# The id of a record, None where the index does not say how ids are made; its digest; its line.
Row = tuple[str | None, bytes, int | None]


def check_fasta(index: Path) -> list[str]:
    """Read the FASTA files of an index again; return those that are missing.

    Raises IndexFormatError where one holds other ids or sequences than were indexed, FastaError
    where it is no longer FASTA.
    """
    missing, metadata = [], read_metadata(index, "index")
    style, without_gaps = metadata.get("ids"), metadata.get("gaps") == "remove"
    ids = SequenceIds(cast(IdStyle, style)) if style else None
    _, digests = read_lengths_and_digests(index)
    names = (name for name, _ in read_ids_and_reasons(index))
    rows = zip(names, map(bytes, digests), strict=True)
    for path, count in read_file_counts(index):
        indexed = islice(rows, count)
        if path.exists():
            _compare(index, path, indexed, _read_file(path, ids, without_gaps=without_gaps))
        else:
            missing.append(str(path))
            deque(indexed, maxlen=0)
    return missing


def _read_file(path: Path, ids: SequenceIds | None, *, without_gaps: bool) -> Iterator[Row]:
    if ids:
        ids.begin(path)
    for records in read_batches(path, without_gaps=without_gaps):
        names = ids.name(records) if ids else [None] * len(records)
        yield from zip(names, digest_all(records.residues), records.lines, strict=True)


def _compare(
    index: Path, path: Path, indexed: Iterator[tuple[str, bytes]], found: Iterator[Row]
) -> None:
    """Raise IndexFormatError unless the records of a file are those that were indexed."""
    nothing: Row = (None, b"", None)
    for row, (name, key, line) in zip_longest(indexed, found, fillvalue=nothing):
        if key == row[1] and name in (None, row[0]):
            continue
        changed = f", line {line}: record {name or row[0]!r} is not as it was"
        what = changed if line else f": record {row[0]!r} is missing, which was there"
        advice = f"put the old file back, or run again with --forcerun {index}, to embed it anew"
        raise IndexFormatError(f"{path}{what} when {index} was made; {advice}")


def check_weights(file: EmbeddingsFile) -> list[str]:
    """Compare a result with its model's description, and that with the weights.

    Returns what is missing. The description is looked for in the working folder, and in that of the
    results. Raises ModelError where the weights, or what they were converted from, have changed.
    """
    name = MODELS / f"{file.attributes['model']}.json"
    folders = [Path(), *file.path.absolute().parents[2:3]]
    path = next((folder / name for folder in folders if (folder / name).exists()), None)
    if path is None:
        return [str(name)]
    model = read_prepared(path)
    if model.sha256 != file.attributes["weights_sha256"]:
        message = f"was made with other weights than {path} describes"
        raise ModelError(f"{message}; run again, so that it is made anew")
    missing = _check_part(Path(model.weights), model.sha256, path)
    if model.original and model.original_sha256:
        missing += _check_part(Path(model.original), model.original_sha256, path)
    return missing


def _check_part(weights: Path, sha256: str, path: Path) -> list[str]:
    """Raise ModelError where weights have another SHA-256; return the files that are missing."""
    files = list_weight_files(weights) if weights.exists() else [weights]
    missing = [str(file) for file in files if not file.exists()]
    if not missing and sha256_of(*files) != sha256:
        message = f"{weights}: is not the file that {path} describes; put the old one back"
        raise ModelError(f"{message}, or run again with --forcerun {path}, to prepare it anew")
    return missing
