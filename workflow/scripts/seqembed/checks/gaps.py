"""Gaps of an alignment, `-` and inner `.`: counted, and refused where nobody said what to do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal, get_args

from seqembed.checks.places import FirstPlaces, find_unknown
from seqembed.errors import ResidueError, count_of
from seqembed.fasta.records import GAPS, Records

Gaps = Literal["error", "remove", "keep"]
_OTHERS = bytes(byte for byte in range(256) if byte not in GAPS)


class GapCheck:
    """Counts gaps in the records of all files.

    asked: what is done with gaps; only `error` refuses them. Raises ValueError for another word.
    """

    def __init__(self, asked: Gaps) -> None:
        if asked not in get_args(Gaps):
            choices = ", ".join(get_args(Gaps))
            raise ValueError(f"gaps must be one of {choices}, not {asked!r}")
        self.asked = asked
        self._counts: Counter[int] = Counter()
        self._sequences = 0
        self._places = FirstPlaces()

    def look(self, path: Path, records: Records) -> None:
        """Count the gaps of some records of a file."""
        if self.asked != "error":
            return
        for number in records.odd:
            residues = records.residues[number]
            if gap := find_unknown(residues, _OTHERS):
                self._sequences += 1
                self._counts.update(residues.translate(None, _OTHERS))
                self._places.add(path, records[number], str(gap), gap.count)

    def finish(self) -> None:
        """Raise ResidueError, after the last file, where there are gaps that are not allowed."""
        if not self._sequences:
            return
        kinds = ", ".join(f"{chr(gap)!r} {count:,}" for gap, count in self._counts.most_common())
        gaps = count_of(self._counts.total(), "gap")
        sequences = count_of(self._sequences, "sequence")
        raise ResidueError(
            f"{gaps} in {sequences} ({kinds}), as in an alignment; set "
            "`gaps: remove` to have them taken out, or `gaps: keep` to embed them as the model's "
            f"own gap token (after --config: gaps=remove); the first: {self._places}"
        )
