"""Whether the files that a result was made of are still what its index and its model describe."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import cast

from seqembed.errors import IndexFormatError, ModelError
from seqembed.fasta.reader import read_batches
from seqembed.index.input_files import read_file_counts, reads_without_gaps
from seqembed.index.parquet import read_metadata
from seqembed.index.sequence_ids import IdStyle, SequenceIds
from seqembed.index.table import read_ids_and_reasons, read_lengths_and_digests
from seqembed.models.prepared import read_prepared, sha256_of
from seqembed.models.source import list_weight_files
from seqembed.results.reader import EmbeddingsFile
from seqembed.storage.digests import digest_all

MODELS = Path("resources/models")
# The id of a record, None where the index does not say how ids are made; its digest; its line.
Row = tuple[str | None, bytes, int | None]


def check_fasta(index: Path) -> list[str]:
    """Read the FASTA files of an index again; return those that are not there.

    Raises IndexFormatError where one holds other ids or sequences today, FastaError where it holds
    what is no FASTA.
    """
    missing, without_gaps = [], reads_without_gaps(index)
    style = cast(IdStyle | None, read_metadata(index, "index").get("ids"))
    ids = SequenceIds(style) if style else None
    rows = _read_index(index)
    for path, count in read_file_counts(index):
        indexed = islice(rows, count)
        if path.exists():
            found = _read_file(path, ids, without_gaps=without_gaps)
            _compare(index, path, indexed, found)
        else:
            missing.append(str(path))
            next(islice(rows, count, count), None)
    return missing


def _read_index(index: Path) -> Iterator[tuple[str, bytes]]:
    _, digests = read_lengths_and_digests(index)
    for (name, _), key in zip(read_ids_and_reasons(index), digests, strict=True):
        yield name, key.tobytes()


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
        if key != row[1] or (name is not None and name != row[0]):
            place = f"{path}, line {line}" if line else str(path)
            what = f"record {name or row[0]!r}" if line else f"record {row[0]!r} is missing, which"
            raise IndexFormatError(
                f"{place}: {what} is not as it was when {index} was made; put the old file back, "
                f"or run again with --forcerun {index}, so that the dataset is made anew"
            )


def check_weights(file: EmbeddingsFile) -> list[str]:
    """Compare the weights with their description, and that with a result; return what is missing.

    Descriptions are looked for in the working folder, and in that of the results. Raises ModelError
    where the weights, or what they were converted from, are others today.
    """
    name = f"{file.attributes['model']}.json"
    folders = [Path(), *file.path.absolute().parents[2:3]]
    path = next((p for folder in folders if (p := folder / MODELS / name).exists()), None)
    if path is None:
        return [str(MODELS / name)]
    model = read_prepared(path)
    if model.sha256 != file.attributes["weights_sha256"]:
        message = f"is of other weights than {path} describes; run again, so that it is made anew"
        raise ModelError(f"{file.path}: {message}")
    parts = {Path(model.weights): model.sha256}
    if model.original and model.original_sha256:
        parts[Path(model.original)] = model.original_sha256
    return [
        missing for part, sha256 in parts.items() for missing in _check_part(part, sha256, path)
    ]


def _check_part(weights: Path, sha256: str, path: Path) -> list[str]:
    """Raise ModelError where weights have another SHA-256; return the files that are missing."""
    if not weights.exists():
        return [str(weights)]
    files = list_weight_files(weights)
    missing = [str(file) for file in files if not file.exists()]
    if not missing and sha256_of(*files) != sha256:
        message = f"is not what {path} describes; put the old file back, or run again with"
        raise ModelError(f"{weights}: {message} --forcerun {path}, so that it is prepared anew")
    return missing
