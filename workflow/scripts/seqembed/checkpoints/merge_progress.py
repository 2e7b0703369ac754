"""Report how far a merge is, which checks its shards, writes rows, and checks the new file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from seqembed.machine.screen import Report
from seqembed.results.rows import TokenRows
from seqembed.results.writer import Slab

# Which share of a merge is done when the shards are checked, and when all rows are written.
CHECKED, WRITTEN = 0.25, 0.75


def report_checked(report: Report, count: int, total: int) -> None:
    """Report that `count` of `total` shards are checked."""
    report(CHECKED * count / total, 0)


class RowCounter:
    """Reports how many rows of a file are written: those of `count` sequences, then token rows.

    residues: the token rows, None if there are none.
    """

    def __init__(self, report: Report, count: int, residues: TokenRows | None) -> None:
        self._report, self._sequences, self._rows = report, 0, 0
        self._total = max(1, count + (int(residues.offsets[-1]) if residues else 0))

    def slabs(self, slabs: Iterable[Slab]) -> Iterator[Slab]:
        for slab in slabs:
            yield slab
            self._sequences += len(slab.lengths)
            self._add(len(slab.lengths))

    def residues(self, residues: TokenRows) -> TokenRows:
        return replace(residues, parts=self._parts(residues.parts))

    def _parts(self, parts: Iterable[NDArray[np.floating]]) -> Iterator[NDArray[np.floating]]:
        for part in parts:
            yield part
            self._add(len(part))

    def _add(self, rows: int) -> None:
        self._rows += rows
        share = CHECKED + (WRITTEN - CHECKED) * self._rows / self._total
        self._report(share, self._sequences)
