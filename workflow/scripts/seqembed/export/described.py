"""Read what the index says of the ids of a result: their descriptions and files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress
from pathlib import Path

from seqembed.errors import ExportError
from seqembed.index.parquet import read_metadata
from seqembed.index.reader import read_described_ids, read_excluded, read_lengths_and_digests
from seqembed.results.reader import EmbeddingsFile
from seqembed.verify.rows import are_quarantined


def read_described(
    file: EmbeddingsFile, index: Path
) -> Iterator[tuple[int, list[str], list[str], list[str]]]:
    """Yield the first row of a slab of a result, its ids, and their descriptions and files.

    Raises ExportError if the index is not of the result's sequences, IndexFormatError if it is
    damaged.
    """
    if read_metadata(index, "index")["fingerprint"] != file.attributes["index_fingerprint"]:
        raise _other_sequences(file, index)
    _, digests = read_lengths_and_digests(index)
    kept = ~(read_excluded(index) | are_quarantined(file, digests))
    place = start = 0
    for columns in read_described_ids(index):
        here = kept[place : place + len(columns[0])]
        place += len(here)
        ids, descriptions, files = (list(compress(column, here)) for column in columns)
        if ids != file.ids(start, start + len(ids)):
            raise _other_sequences(file, index)
        yield start, ids, descriptions, files
        start += len(ids)
    if start != file.count:
        raise _other_sequences(file, index)


def _other_sequences(file: EmbeddingsFile, index: Path) -> ExportError:
    problem = f"is of other sequences than {index}"
    return ExportError(f"{file.path}: {problem}; run the workflow again to make both anew")
