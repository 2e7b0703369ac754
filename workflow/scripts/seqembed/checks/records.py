"""Find records that look like something else, although all their letters may be residues."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import AnyStr

import numpy as np

from seqembed.checks.lines import AMINO_ACIDS, IS_WORD, THREE_LETTERS, Finding, is_three_letters
from seqembed.fasta.records import Records
from seqembed.models.families import Molecule

NUCLEOTIDES = b"ACGTUN"
DNA_MIN_SHARE = 0.95
# Fewer letters do not show what a record holds.
MIN_RECORD_LETTERS = 60
# Letters of secondary structure, by DSSP or in three states, and runs of helix and strand.
_STRUCTURE = b"HECTSGBIPL"
_RUNS = re.compile(rb"H{3,}|E{3,}")
# A name at the end of a header would have other letters, too.
_AMINO_ACIDS = b"ACDEFGHIKLMNPQRSTVWY"
_IS_AMINO_ACID = np.array([byte in _AMINO_ACIDS for byte in range(256)])
_HEADER_RESIDUES = re.compile(r"[ACDEFGHIKLMNPQRSTVWY]{30,}\Z")
_HEADER_END = 200
_IS_PIR = "is PIR, whose second line is a title, not residues; convert the file to FASTA"
_IS_GAP_LINE = "is a gap of NCBI's tbl2asn within the record above; write its N, or leave it out"
_HAS_RESIDUES = "looks like a sequence within a header: is a line break missing before it?"
_ENTITIES = frozenset(("ccd", "smiles", "ligand", "glycan", "dna", "rna", "protein"))
# The beginning of odd headers. A kind of molecule may follow the short name of a chain.
_ODD_HEADER = re.compile(
    rf"\n(?:(?P<pir>(?:P1|F1|D[LC]|R[LC]|N[13]|XX);)|(?P<gap>\?(?:unk)?[0-9]+$)|"
    rf"(?:[^|\n]{{,5}}\|)?(?i:{'|'.join(sorted(_ENTITIES))})(?![^|\s]))",
    re.MULTILINE,
)
# Reduced alphabets: the classes of Dayhoff, and hydrophobic or polar.
_REDUCED = b"ABCDEF", b"HP"
# The beginning of sequences that are written in another alphabet; proteins hardly begin so.
_UNUSUAL = re.compile(
    rb"\n(?:[HECTSGBIPL]{15}|[ACGTUN]{12}|[ABCDEF]{15}|[HP]{15}|(?:%b){2})" % b"|".join(AMINO_ACIDS)
)
_USUAL, _WORD_LETTERS = bytes(byte for byte in range(256) if byte not in b"OU"), 20
_COMPLEMENT, _STRAND_MIN = bytes.maketrans(b"ACGTU", b"TGCAA"), 10


def find_suspicious_records(
    records: Records, text: bytes, molecule: Molecule, *, rna_refused: bool
) -> Iterator[tuple[int, Finding]]:
    """Yield the numbers of records that look like something else, each with a finding.

    text: the residues of all records. rna_refused: whether RNA is refused for a model of DNA.
    """
    yield from _find_odd_headers(records, molecule)
    if molecule == "DNA":
        yield from _find_double_strands(records)
        yield from _find_rna(records, text) if rna_refused else ()
        return
    yield from _find_words(records)
    for number, _ in _search(_UNUSUAL, b"\n" + b"\n".join(records.residues), b"\n"):
        if name := _name_protein(records.residues[number]):
            yield number, Finding(1, records.residues[number], name)


def _search(
    expression: re.Pattern[AnyStr], text: AnyStr, feed: AnyStr
) -> Iterator[tuple[int, re.Match[AnyStr]]]:
    """Search many lines at once, each behind a line feed; yield a line's number and the match."""
    number, place = -1, 0
    for found in expression.finditer(text):
        number += text.count(feed, place, found.start() + 1)
        place = found.start() + 1
        yield number, found


def _find_odd_headers(records: Records, molecule: Molecule) -> Iterator[tuple[int, Finding]]:
    """Yield records whose header shows another format or molecule, or ends with residues."""
    for number, found in _search(_ODD_HEADER, "\n" + "\n".join(records.headers), "\n"):
        if what := _name_header(found, records.sequence_ids[number], molecule):
            yield number, Finding(0, records.headers[number].encode(), what)
    last = np.frombuffer(records.block, np.uint8)[records.ends - 1]
    for number in np.flatnonzero(_IS_AMINO_ACID[last]).tolist():
        header = records.headers[number]
        end = _HEADER_RESIDUES.search(header[-_HEADER_END:])
        if end and len(set(end[0])) > 3 and end[0].encode() not in records.residues[number]:
            yield number, Finding(0, header.encode(), _HAS_RESIDUES)


def _name_header(found: re.Match[str], sequence_id: str, molecule: Molecule) -> str | None:
    """Return what an odd header shows; None if it names the model's kind of molecule."""
    if found["pir"] or found["gap"]:
        return _IS_PIR if found["pir"] else _IS_GAP_LINE
    # Boltz and Chai write the kind of molecule.
    kinds = _ENTITIES.intersection(sequence_id.lower().split("|")[:2])
    if kinds - {"protein" if molecule == "protein" else "dna"}:
        return f"says that this is {', '.join(kinds)}, not {molecule}; remove the record"
    return None


def _find_double_strands(records: Records) -> Iterator[tuple[int, Finding]]:
    """Yield records whose second line is the other strand of the first."""
    headers = np.searchsorted(records.line_begins, records.begins)
    for number in np.flatnonzero(np.append(headers[1:], len(records.line_begins)) - headers > 2):
        one, two = (records.line(headers[number] + below).upper() for below in (1, 2))
        if len(one) >= _STRAND_MIN and one.translate(_COMPLEMENT) in (two, two[::-1]):
            what = "is the other strand of the line above it; write one strand"
            yield int(number), Finding(2, two, what)


def _find_rna(records: Records, text: bytes) -> Iterator[tuple[int, Finding]]:
    """Yield records with U in place of T, of which a model of DNA knows only three letters."""
    for number, residues in enumerate(records.residues if b"U" in text else []):
        if b"T" not in residues and residues.count(b"U") >= max(2, len(residues) / 20):
            yield number, Finding(1, residues, "is RNA, and the model reads DNA; replace U with T")


def _find_words(records: Records) -> Iterator[tuple[int, Finding]]:
    """Yield short sequences with more O and U than peptides have."""
    short = (records.lengths > 3) & (records.lengths <= _WORD_LETTERS)
    for number in np.flatnonzero(short).tolist():
        residues = records.residues[number]
        rare = residues.translate(None, _USUAL)
        if b"O" in rare and len(rare) >= max(2, len(residues) / 5):
            yield number, Finding(1, residues, IS_WORD)


def _name_protein(residues: bytes) -> str | None:
    """Return what a sequence looks like, if not like a protein."""
    if is_three_letters(residues):
        return THREE_LETTERS
    various = len(set(residues)) > 1
    in_runs = sum(map(len, _RUNS.findall(residues)))
    if not residues.translate(None, _STRUCTURE) and various and in_runs >= len(residues) / 3:
        return "looks like secondary structure, not residues; remove the record"
    dayhoff, polarity = (not residues.translate(None, letters) for letters in _REDUCED)
    # Proteins hardly have B.
    if (dayhoff and b"B" in residues) or (polarity and various):
        return "looks like classes of amino acids, not residues"
    if len(residues) >= MIN_RECORD_LETTERS and _is_dna(residues):
        return "looks like DNA or RNA; translate it first, or remove the record"
    return None


def _is_dna(residues: bytes) -> bool:
    """Whether nearly all letters are of nucleotides, and of at least three kinds."""
    counts = Counter(residues)
    kinds = sum(counts[byte] > len(residues) / 20 for byte in NUCLEOTIDES)
    share = sum(counts[byte] for byte in NUCLEOTIDES) / len(residues)
    return share >= DNA_MIN_SHARE and kinds >= 3
