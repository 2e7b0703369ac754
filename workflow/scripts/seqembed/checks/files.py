"""Recognise by its records together that a file holds something else than whole sequences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from seqembed.checks.lines import NO_SEQUENCE, Finding, Place
from seqembed.fasta.records import Records

# These three are half of Foldseek's 20 letters of structure, and a sixth of amino acids. Collagen
# and elastin hardly have D.
_FOLDSEEK = {b"D": 0.07, b"V": 0.12, b"P": 0.08}
_FOLDSEEK_MIN_SHARE = 0.4
_SAMPLE_LETTERS, _MIN_LETTERS = 1 << 20, 200
# What R and pandas write for a missing value. Peptides of these letters exist.
_MISSING, _MISSING_LETTERS = frozenset((b"NA", b"NAN")), 3
_LONG = 20
# Lengths at which spreadsheets and databases cut a text, and how many longest sequences of such a
# length are no coincidence.
_CUT = {255: 3, 256: 3, 4000: 2, 32_767: 1, 65_535: 1}
_SHOWN_LETTERS = 100
_LENGTH = re.compile(r"(?<![a-z])len(?:gth)?[ =:_]+([0-9]{1,12})(?![0-9.])", re.IGNORECASE)


@dataclass
class Identities:
    """Finds records of an alignment in which a dot means: as in the first sequence.

    width: columns of the first sequence, None if it has gaps.
    """

    width: int | None = None
    begun: bool = False

    def find(self, records: Records) -> Iterator[tuple[int, Finding]]:
        """Yield the records, by number, that are mostly dots, if the first record has none."""
        if not self.begun:
            self.begun = True
            self.width = None if _has_gap(records, 0) else int(records.lengths[0])
        for number in records.odd if self.width else []:
            if not _has_gap(records, number):
                continue
            columns = b"".join(records.raw(number).partition(b"\n")[2].split())
            if len(columns) == self.width and 2 * columns.count(b".") > len(columns) > 1:
                what = "has dots that seem to say `as in the first sequence`; write all residues"
                yield number, Finding(1, columns, what)


def _has_gap(records: Records, number: int) -> bool:
    """Whether there are gaps in a record's text, even if they are dropped from its residues."""
    raw = records.raw(number)
    begin = max(0, raw.find(b"\n"))
    return any(raw.find(gap, begin) >= 0 for gap in (b".", b"-"))


@dataclass
class Lengths:
    """Finds sequences that a program seems to have cut at its greatest length of a text."""

    records: int = 0
    longest: int = 0
    count: int = 0
    first: tuple[int, bytes] = (0, b"")

    def add(self, records: Records, text: bytes) -> None:
        """Count the records of one block."""
        self.records += len(records)
        longest = int(records.lengths.max(initial=0))
        if longest > self.longest:
            place = int(records.lengths.argmax())
            self.longest, self.count = longest, 0
            self.first = records.lines[place], records.residues[place][:_SHOWN_LETTERS]
        if longest == self.longest:
            self.count += int((records.lengths == longest).sum())

    def find(self) -> Place | None:
        """Return the first sequence that seems to be cut."""
        if not _CUT.get(self.longest, self.records) <= self.count < self.records:
            return None
        line, residues = self.first
        amount = f"has {self.longest:,} letters, the most that some programs keep of a text"
        return line, Finding(
            1, residues, f"{amount}, as {self.count:,} sequences do: were they cut?"
        )


@dataclass
class StatedLengths:
    """Finds a last record that is shorter than its header says, where no other is.

    Trimmed reads disagree in many records, a truncated file only in its last.
    """

    agreeing: int = 0
    others: int = 0
    last: Place | None = None

    def add(self, records: Records, text: bytes) -> None:
        """Compare the lengths of records with those in their headers."""
        self.last = None
        # Programs that write lengths write them everywhere.
        if not _LENGTH.search(records.headers[-1]):
            return
        for number, header in enumerate(records.headers):
            self.last = None
            if not (found := _LENGTH.search(header)):
                continue
            stated, length = int(found[1]), int(records.lengths[number])
            # A stop at the end may be counted.
            if stated in (length, length + 1):
                self.agreeing += 1
                continue
            self.others += 1
            if length < stated:
                what = (
                    f"has {length:,} letters, where its header says {stated:,}: was the file cut?"
                )
                self.last = records.lines[number], Finding(0, header.encode(), what)

    def find(self) -> Place | None:
        return self.last if self.others == 1 and self.agreeing > 1 else None


@dataclass
class Composition:
    """Finds letters of structure, and a missing value among long proteins.

    sample: the first letters of the file. missing: line and text of the first missing value.
    """

    letters: int = 0
    records: int = 0
    sample: bytearray = field(default_factory=bytearray)
    missing: tuple[int, bytes] | None = None

    def add(self, records: Records, text: bytes) -> None:
        """Count the records of one block; text: the residues of all."""
        self.records += len(records)
        self.letters += len(text)
        if len(self.sample) < _SAMPLE_LETTERS:
            self.sample += text[:_SAMPLE_LETTERS]
        short = records.lengths.min(initial=_LONG) <= _MISSING_LETTERS
        if short and not self.missing and not _MISSING.isdisjoint(records.residues):
            pairs = zip(records.lines, records.residues, strict=True)
            self.missing = next(pair for pair in pairs if pair[1] in _MISSING)

    def find(self) -> Place | None:
        """Return what a protein file looks like, if not proteins."""
        if self.missing and self.letters > _LONG * self.records:
            return self.missing[0], Finding(1, self.missing[1], NO_SEQUENCE)
        if not self._is_foldseek():
            return None
        what = "looks like Foldseek's letters of structure (3Di), not residues"
        return 1, Finding(1, bytes(self.sample[:_SHOWN_LETTERS]), what)

    def _is_foldseek(self) -> bool:
        size = len(self.sample)
        counts = {letter: self.sample.count(letter) for letter in _FOLDSEEK}
        high = all(counts[letter] >= least * size for letter, least in _FOLDSEEK.items())
        return size >= _MIN_LETTERS and high and sum(counts.values()) >= _FOLDSEEK_MIN_SHARE * size
