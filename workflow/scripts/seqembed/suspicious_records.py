"""Records, and whole files, that look like something else than sequences of one molecule."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from seqembed.models.families import Molecule
from seqembed.records import Records
from seqembed.suspicious_lines import AMINO_ACIDS, Finding, is_three_letter_codes

NUCLEOTIDES = b"ACGTUN"
DNA_MIN_SHARE = 0.95
# Fewer letters do not tell what a record or a file holds.
MIN_RECORD_LETTERS = 60
MIN_FILE_LETTERS = 200
# Secondary structure by DSSP and its like, and by three states: runs of helix and of strand.
_STRUCTURE = b"HECTSGBIPL"
_STRUCTURE_MIN = 15
_RUNS = re.compile(rb"H{3,}|E{3,}")
_PREFIX = 6
# Of Foldseek's 20 letters of structure these three are half; of amino acids, a sixth. Collagen and
# elastin have no D to speak of.
_FOLDSEEK = {b"D": 0.07, b"V": 0.12, b"P": 0.08}
_FOLDSEEK_MIN_SHARE = 0.4
_SAMPLE_LETTERS = 1 << 20
# Behind the `>` stand two letters and this.
_PIR, _PIR_PLACE = re.compile(r"(P1|F1|D[LC]|R[LC]|N[13]|XX);"), 3
# Few names are so long, and have no letter but these.
_AMINO_ACIDS, _HEADER_RESIDUES = b"ACDEFGHIKLMNPQRSTVWY", 30
# What R and pandas write for a missing value; peptides of these letters exist.
_MISSING, _MISSING_LETTERS = frozenset((b"NA", b"NAN")), 3
_LONG = 20


def find_suspicious_records(
    records: Records, text: bytes, molecule: Molecule
) -> Iterator[tuple[int, Finding]]:
    """Records that look like something else, by number; text: the residues of all."""
    letters = np.frombuffer(records.block, np.uint8)
    # What most files have nowhere is looked for in one step, and is tested only where it is.
    for number in np.flatnonzero(letters[records.begins + _PIR_PLACE] == ord(";")).tolist():
        if _PIR.match(records.headers[number]):
            what = "is PIR, whose second line is a title, not residues; convert the file to FASTA"
            yield number, Finding(0, records.headers[number].encode(), what)
    for number in np.flatnonzero(_IS_AMINO_ACID[letters[records.ends - 1]]).tolist():
        if _ends_with_residues(records, number):
            what = "looks like a sequence within a header: is a line break missing before it?"
            yield number, Finding(0, records.headers[number].encode(), what)
    if molecule == "protein":
        for number in _candidates(records, text):
            if name := _name_protein(records.residues[number]):
                yield number, Finding(1, records.residues[number], name)


def _ends_with_residues(records: Records, number: int) -> bool:
    """Whether the last word of a header is a sequence, and not one that its record holds."""
    header = records.headers[number][-(1 << 16) :]
    if len(header) < _HEADER_RESIDUES:
        return False
    word = header.split()[-1].encode()
    residues = len(word) >= _HEADER_RESIDUES and not word.translate(None, _AMINO_ACIDS)
    return residues and len(set(word)) >= 4 and word not in records.residues[number]


def _candidates(records: Records, text: bytes) -> list[int]:
    """The records that begin as usual proteins do not.

    Few operations for all of them, so that usual files take little time.
    """
    lengths = records.lengths
    begins = np.cumsum(lengths) - lengths
    letters = np.frombuffer(text + bytes(_PREFIX), np.uint8)
    first = letters[begins[:, None] + np.arange(_PREFIX)]
    structure = _IS_STRUCTURE[first].all(1) & (lengths >= _STRUCTURE_MIN)
    dna = _IS_NUCLEOTIDE[first].all(1) & (lengths >= MIN_RECORD_LETTERS)
    codes = _IS_CODE[first[:, 0], first[:, 1]] & _IS_CODE[first[:, 3], first[:, 4]]
    return np.flatnonzero(structure | dna | codes).tolist()


# By the first two letters of a code.
_IS_CODE = np.zeros((256, 256), np.bool_)
for _code in AMINO_ACIDS:
    _IS_CODE[_code[0], _code[1]] = True
_IS_AMINO_ACID = np.array([byte in _AMINO_ACIDS for byte in range(256)])
_IS_STRUCTURE = np.array([byte in _STRUCTURE for byte in range(256)])
_IS_NUCLEOTIDE = np.array([byte in NUCLEOTIDES for byte in range(256)])


def _name_protein(residues: bytes) -> str | None:
    """What a sequence looks like, if not like a protein."""
    if is_three_letter_codes(residues):
        return "looks like three-letter codes; write one letter a residue"
    if not residues.translate(None, _STRUCTURE) and _has_runs(residues):
        return "looks like secondary structure, not residues; remove the record"
    if len(residues) >= MIN_RECORD_LETTERS and _is_dna(residues):
        return "looks like DNA or RNA; translate it first, or remove the record"
    return None


def _has_runs(residues: bytes) -> bool:
    """Whether a third of the letters are in runs of H or E, beside others."""
    runs = sum(map(len, _RUNS.findall(residues)))
    return len(residues) >= _STRUCTURE_MIN and runs >= len(residues) / 3 and len(set(residues)) > 1


def _is_dna(residues: bytes) -> bool:
    """Whether nearly all letters are nucleotides', and of three kinds at least."""
    counts = Counter(residues)
    kinds = sum(counts[byte] > len(residues) / 20 for byte in NUCLEOTIDES)
    share = sum(counts[byte] for byte in NUCLEOTIDES) / len(residues)
    return share >= DNA_MIN_SHARE and kinds >= 3


@dataclass
class Identities:
    """Alignments in which a dot says: as in the first sequence.

    width: columns of the first sequence, if it has no gap.
    """

    width: int | None = None
    begun: bool = False

    def find(self, records: Records) -> Iterator[tuple[int, Finding]]:
        """The records that are dots for the most part, where the first one of the file has none."""
        if not self.begun:
            self.begun, first = True, _columns(records, 0)
            self.width = None if b"." in first or b"-" in first else len(first)
        for number in records.odd if self.width else []:
            columns = _columns(records, number)
            if len(columns) == self.width and 2 * columns.count(b".") > len(columns) > 1:
                what = "has dots that seem to say `as in the first sequence`; write all residues"
                yield number, Finding(1, columns, what)


def _columns(records: Records, number: int) -> bytes:
    """A record's residues and gaps."""
    return b"".join(records.raw(number).partition(b"\n")[2].split())


@dataclass
class Composition:
    """What the first letters of a file, and its shortest records, tell of the whole of it."""

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
        short = len(records) and records.lengths.min() <= _MISSING_LETTERS
        if short and not self.missing and not _MISSING.isdisjoint(records.residues):
            pairs = zip(records.lines, records.residues, strict=True)
            self.missing = next(pair for pair in pairs if pair[1] in _MISSING)

    def find(self) -> tuple[int, Finding] | None:
        """What a protein file looks like, with the line (from 1) that shows it."""
        if self.missing and self.letters > _LONG * self.records:
            what = "is what programs write for a missing value"
            return self.missing[0], Finding(1, self.missing[1], what)
        shares = {k: self.sample.count(k) / max(1, len(self.sample)) for k in _FOLDSEEK}
        high = all(shares[letter] >= least for letter, least in _FOLDSEEK.items())
        enough = len(self.sample) >= MIN_FILE_LETTERS
        if enough and high and sum(shares.values()) >= _FOLDSEEK_MIN_SHARE:
            what = "looks like Foldseek's letters of structure (3Di), not residues"
            return 1, Finding(1, bytes(self.sample[:100]), what)
        return None
