"""What a result holds, counted: its ids, its flags, and what has no row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ExportError
from seqembed.flags import FP32_RETRY, TRUNCATED, WINDOWED
from seqembed.index.reader import read_excluded, read_file_counts, read_lengths_and_digests
from seqembed.results.quarantine_table import HEADER
from seqembed.results.reader import EmbeddingsFile
from seqembed.storage.digests import first_rows
from seqembed.verify.rows import are_quarantined

# How many ids without a row, reasons, files, and sequences with several ids a page names.
NAMED = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """What a result of n rows holds.

    files: each FASTA file with its number of records, in input order. left_out: how many records
    the index left out. failed: how many could not be embedded. reasons: why, with counts, the most
    frequent first. unembedded: the first NAMED ids without a row, with reasons. distinct: how many
    different sequences the rows are of. repeated: the first ids of the NAMED sequences with the
    most ids, and how many each has. lengths: (n,) int64. flagged: how many rows have each flag.
    """

    files: Sequence[tuple[str, int]]
    left_out: int
    failed: int
    reasons: Sequence[tuple[str, int]]
    unembedded: Sequence[tuple[str, str]]
    rows: int
    distinct: int
    repeated: Sequence[tuple[str, int]]
    lengths: NDArray[np.int64]
    flagged: Mapping[int, int]

    @property
    def records(self) -> int:
        return sum(count for _, count in self.files)

    @property
    def lacking(self) -> int:
        """How many records have no row."""
        return self.left_out + self.failed


def count_contents(file: EmbeddingsFile, index: Path, quarantine: Path) -> Contents:
    """Count what a result, its index and its quarantine.tsv hold.

    Raises ExportError if the counts do not add up, IndexFormatError if the index is damaged, and
    OSError if quarantine.tsv cannot be read.
    """
    excluded, (_, digests) = read_excluded(index), read_lengths_and_digests(index)
    failed = are_quarantined(file, digests) & ~excluded
    unembedded, reasons = _read_quarantine(quarantine)
    repeated, distinct = _find_repeated(file)
    flags = file.flags()
    found = Contents(
        files=[(str(path), count) for path, count in read_file_counts(index)],
        left_out=int(excluded.sum()),
        failed=int(failed.sum()),
        reasons=reasons.most_common(),
        unembedded=unembedded,
        rows=file.count,
        distinct=distinct,
        repeated=repeated,
        lengths=file.lengths(),
        flagged={flag: int((flags & flag > 0).sum()) for flag in (WINDOWED, TRUNCATED, FP32_RETRY)},
    )
    if found.records != found.rows + found.lacking or found.lacking != reasons.total():
        problem = (
            f"{found.records:,} records are in {index}, {found.rows:,} rows here, and "
            f"{reasons.total():,} ids in {quarantine}, which do not add up"
        )
        raise ExportError(f"{file.path}: {problem}; run the workflow again to make them anew")
    return found


def _read_quarantine(path: Path) -> tuple[list[tuple[str, str]], Counter[str]]:
    """Return the first ids without a row, with their reasons, and how often each reason occurs."""
    first: list[tuple[str, str]] = []
    reasons = Counter[str]()
    with path.open(encoding="utf-8", newline="\n") as file:
        if next(file, "") != HEADER:
            raise ExportError(f"{path}: has no header; remove it, and run the workflow again")
        for line in file:
            name, _, reason = line.removesuffix("\n").partition("\t")
            reasons[reason] += 1
            if len(first) < NAMED:
                first.append((name, reason))
    return first, reasons


def _find_repeated(file: EmbeddingsFile) -> tuple[list[tuple[str, int]], int]:
    """Return the sequences with the most ids, and how many distinct sequences there are."""
    firsts = first_rows(file.digests())
    rows, counts = np.unique(firsts, return_counts=True)
    most = [place for place in np.argsort(-counts, kind="stable")[:NAMED] if counts[place] > 1]
    named = [(file.ids(rows[place], rows[place] + 1)[0], int(counts[place])) for place in most]
    return named, len(rows)
