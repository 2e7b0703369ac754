"""Find faults that show only in many records of a file together, such as cut sequences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from seqembed.checks.notations import NO_SEQUENCE, Finding, Place
from seqembed.fasta.records import Records

# The least shares of letters in a text of Foldseek, which has 20 letters for protein structure. D,
# V and P are half of such a text, but a sixth of the residues of proteins. Collagen and elastin
# have much V and P, but hardly any D.
_FOLDSEEK = {b"D": 0.07, b"V": 0.12, b"P": 0.08}
_FOLDSEEK_MIN_SHARE = 0.4
_SAMPLE_LETTERS, _MIN_LETTERS = 1 << 20, 200
# R and pandas write these for a missing value, but peptides NA and NAN exist, too.
_MISSING, _MISSING_LETTERS = frozenset((b"NA", b"NAN")), 3
_LONG = 20
# Lengths at which spreadsheets and databases cut a text, and how many sequences have to have this
# length, while none is longer, to count as cut.
_CUT = {255: 3, 256: 3, 4000: 2, 32_767: 1, 65_535: 1}
_SHOWN_LETTERS = 100
_LENGTH = re.compile(r"(?<![a-z])len(?:gth)?[ =:_]+([0-9]{1,12})(?![0-9.])", re.IGNORECASE)
# A missing header is reported only if at most this share of lines is shorter than the next line,
# and if at least so many neighbours have one width: programs wrap at one width, people at many.
_MOST_STEPS = 0.05
_LEAST_EQUAL = 4
# Letters that are rare in a short line of residues, and frequent in words.
_RARE = re.compile(rb"[OUBZ]", re.IGNORECASE)
_SHORT = 30
# A run of one letter. Annotations of topology and structure have long runs, residues do not.
_RUNS = re.compile(rb"(?s)(.)\1*")
_ANNOTATION_MIN = 15
_ANNOTATION = "looks like an annotation of the line above it, not residues; remove such lines"
_WORD = "looks like a word above a sequence, not residues"
_MISSING_HEADER = (
    "is shorter than the line below it, though other lines of this file have one width: a header "
    "seems to be missing between these two lines"
)
_WORDS = frozenset(
    b"ALPHA CHAIN DELTA DRAFT FAMILY FRAGMENT GAMMA HELICASE KINASE LIGASE LIKE LIPASE MATRIX "
    b"PARTIAL PEPTIDE PEPTIDASE PHAGE PLASMID PREDICTED PRIMASE REPEAT SAPIENS SIMILAR SPECIES "
    b"STRAIN SYNTHASE TITLE TRANSFERASE TRANSMEMBRANE VARIANT VIRAL".split()
)


@dataclass
class Identities:
    """Finds records of an alignment with dots that mean `the residue of the first sequence`.

    width: of the file's first sequence; 0 if it has gaps (then no record is found); None at first.
    """

    width: int | None = None

    def find(self, records: Records) -> Iterator[tuple[int, Finding]]:
        """Yield the number, from 0, of each record with more dots than residues, and a finding."""
        if self.width is None:
            self.width = 0 if _has_gap(records, 0) else int(records.lengths[0])
        for number in records.odd if self.width else []:
            if not _has_gap(records, number):
                continue
            columns = b"".join(records.raw(number).partition(b"\n")[2].split())
            if len(columns) == self.width and 2 * columns.count(b".") > len(columns) > 1:
                what = "has dots that seem to say `as in the first sequence`; write all residues"
                yield number, Finding(1, columns, what)


def _has_gap(records: Records, number: int) -> bool:
    """Whether record `number`, from 0, has gaps in the file; its residues may be without them."""
    raw = records.raw(number)
    return max(raw.rfind(b"."), raw.rfind(b"-")) > raw.find(b"\n")


@dataclass
class Lengths:
    """Finds sequences that seem to be cut, since their length is the most that some programs keep.

    records: how many were read. longest: the greatest length. count: how many records have the
    greatest length. first: the header's line, from 1, and the first letters of the first of them.
    """

    records: int = 0
    longest: int = 0
    count: int = 0
    first: tuple[int, bytes] = (0, b"")

    def add(self, records: Records, text: bytes) -> None:
        """Count the next records of the file by length; text: not used."""
        self.records += len(records)
        place = int(records.lengths.argmax())
        if (longest := int(records.lengths[place])) > self.longest:
            self.longest, self.count = longest, 0
            self.first = records.lines[place], records.residues[place][:_SHOWN_LETTERS]
        if longest == self.longest:
            self.count += int((records.lengths == longest).sum())

    def find(self) -> Place | None:
        """Return the place of the first sequence that seems to be cut; None if there is none."""
        if not _CUT.get(self.longest, self.records) <= self.count < self.records:
            return None
        what = f"has {self.longest:,} letters, the most that some programs keep of a text, and no "
        what += f"sequence has more: it seems to be cut (sequences of this length: {self.count:,})"
        return self.first[0], Finding(1, self.first[1], what)


@dataclass
class StatedLengths:
    """Finds a file whose last record, and no other, is shorter than its header says.

    In a truncated file only the last record is too short; in a file of trimmed reads, many are.
    agreeing, others: how many records are as long as their header says, and how many are not.
    last: the place of the last record if it is too short; otherwise None.
    """

    agreeing: int = 0
    others: int = 0
    last: Place | None = None

    def add(self, records: Records, text: bytes) -> None:
        """Compare the lengths of records with the lengths in their headers; text: not used."""
        self.last = None
        # A program that writes lengths writes them into all headers.
        if not _LENGTH.search(records.headers[-1]):
            return
        for number, header in enumerate(records.headers):
            self.last = None
            if not (found := _LENGTH.search(header)):
                continue
            stated, length = int(found[1]), int(records.lengths[number])
            # The header may count the stop that ends the sequence.
            agrees = stated in (length, length + 1)
            self.agreeing, self.others = self.agreeing + agrees, self.others + (not agrees)
            if length + 1 < stated:
                what = f"says {stated:,}, but {length:,} letters follow: the file seems to be "
                what += "truncated; copy it again"
                self.last = records.lines[number], Finding(0, header.encode(), what)

    def find(self) -> Place | None:
        """Return the place of the last record if it alone is too short; otherwise None."""
        return self.last if self.others == 1 and self.agreeing > 1 else None


@dataclass
class Composition:
    """Finds a file of Foldseek's letters for structure, and `NA` or `NAN` among long proteins.

    letters, records: how many were read. sample: the first residues of the file. missing: the
    header's line, from 1, and the text of the first sequence `NA` or `NAN`; None if there is none.
    """

    letters: int = 0
    records: int = 0
    sample: bytearray = field(default_factory=bytearray)
    missing: tuple[int, bytes] | None = None

    def add(self, records: Records, text: bytes) -> None:
        """Count the next records of the file and their letters; text: their residues, joined."""
        self.records += len(records)
        self.letters += len(text)
        if len(self.sample) < _SAMPLE_LETTERS:
            self.sample += text[:_SAMPLE_LETTERS]
        short = records.lengths.min(initial=_LONG) <= _MISSING_LETTERS
        if short and not self.missing and not _MISSING.isdisjoint(records.residues):
            pairs = zip(records.lines, records.residues, strict=True)
            self.missing = next(pair for pair in pairs if pair[1] in _MISSING)

    def find(self) -> Place | None:
        """Return the place of `NA` or `NAN`, or line 1 for Foldseek's letters, or else None."""
        if self.missing and self.letters > _LONG * self.records:
            return self.missing[0], Finding(1, self.missing[1], NO_SEQUENCE)
        size = len(self.sample)
        counts = {letter: self.sample.count(letter) for letter in _FOLDSEEK}
        high = all(counts[letter] >= least * size for letter, least in _FOLDSEEK.items())
        if size < _MIN_LETTERS or not high or sum(counts.values()) < _FOLDSEEK_MIN_SHARE * size:
            return None
        what = "looks like Foldseek's letters of structure (3Di), not residues"
        return 1, Finding(1, bytes(self.sample[:_SHOWN_LETTERS]), what)


@dataclass
class LineWidths:
    """Finds a missing header, or lines that are no residues, by the widths of neighbouring lines.

    words: whether to look for words above sequences, and for annotations below them. pairs: how
    many pairs of neighbouring lines the sequences have. equal: how many pairs have two lines of one
    width. steps: in how many pairs the second line is longer. first_annotation, first_step,
    first_word: the place of the first one; None if none was found.
    """

    words: bool
    pairs: int = 0
    equal: int = 0
    steps: int = 0
    first_annotation: Place | None = None
    first_step: Place | None = None
    first_word: Place | None = None

    def add(self, records: Records, text: bytes) -> None:
        """Compare the widths of the next records' neighbouring lines; text: not used."""
        widths = records.line_ends - records.line_begins
        letters = np.frombuffer(records.block + b"\n", np.uint8)[records.line_begins]
        # A blank line may have a carriage return.
        filled = np.flatnonzero((widths > 1) | (letters > ord(" ")))
        header, grows = letters[filled] == ord(">"), np.diff(widths[filled])
        inner = ~(header[:-1] | header[1:])
        same = inner & (grows == 0)
        self.pairs += int(np.count_nonzero(inner))
        self.equal += int(np.count_nonzero(same))
        for place in np.flatnonzero(inner & (grows > 0)).tolist():
            self._look(records, int(filled[place]), int(filled[place + 1]))
        if self.first_annotation or not self.words:
            return
        # The second of two lines alone between two headers, or at the end of the block.
        alone = np.append(False, header[:-2]) & np.append(header[2:], True)
        for number in filled[np.flatnonzero(same & alone) + 1].tolist():
            line = b"".join(records.line(number).split())
            if len(line) >= _ANNOTATION_MIN and len(_RUNS.findall(line)) * 5 < len(line):
                self.first_annotation = records.lines[0] + number, Finding(0, line, _ANNOTATION)
                return

    def _look(self, records: Records, number: int, next_number: int) -> None:
        line, below = (b"".join(records.line(n).split()) for n in (number, next_number))
        # The widths of `add` count blanks and carriage returns, these do not.
        if not line or len(line) >= len(below):
            return
        self.steps += 1
        place = records.lines[0] + number
        self.first_step = self.first_step or (place, Finding(0, line, _MISSING_HEADER))
        word = self.words and (_is_word(line, below) or _repeats_id(records, number, line))
        if word and not self.first_word:
            self.first_word = place, Finding(0, line, _WORD)

    def find(self) -> Place | None:
        """Return the place of the first annotation, else word, else missing header, else None."""
        few = self.steps <= max(1, _MOST_STEPS * self.pairs) and self.equal >= _LEAST_EQUAL
        return self.first_annotation or self.first_word or (self.first_step if few else None)


def _repeats_id(records: Records, number: int, line: bytes) -> bool:
    """Whether `line`, line `number` of the block, is right below a header and repeats its id."""
    owner = int(np.searchsorted(records.begins, records.line_begins[number], "right")) - 1
    above = records.block[records.ends[owner] : records.line_begins[number]]
    return not above.strip() and records.sequence_ids[owner].encode() == line


def _is_word(line: bytes, below: bytes) -> bool:
    """Whether a line seems to be a word, not residues. below: the next line, which is longer."""
    if not line.isalpha() or len(line) > _SHORT:
        return False
    cased = line != line.upper() and below == below.upper()
    return cased or bool(_RARE.search(line)) or line.upper() in _WORDS
