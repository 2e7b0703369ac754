"""Find records that look like something else than sequences, although all letters are possible."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import AnyStr

import numpy as np

from seqembed.checks.notations import AMINO_ACIDS, IS_WORD, THREE_LETTERS, Finding, is_three_letters
from seqembed.fasta.records import Records
from seqembed.models.families import Molecule

NUCLEOTIDES = b"ACGTUN"
DNA_MIN_SHARE = 0.95
# A sequence of fewer letters is not taken for DNA.
MIN_RECORD_LETTERS = 60
# Letters of secondary structure, by DSSP or in three states; runs of helix (H) and strand (E).
_STRUCTURE = b"HECTSGBIPL"
_RUNS = re.compile(rb"H{3,}|E{3,}")
# Residues at the end of a header: only amino acids, while names have other letters, too.
_AMINO_ACIDS = b"ACDEFGHIKLMNPQRSTVWY"
_IS_AMINO_ACID = np.array([byte in _AMINO_ACIDS for byte in range(256)])
_HEADER_RESIDUES = re.compile(r"[ACDEFGHIKLMNPQRSTVWY]{30,}\Z")
_HEADER_END = 200
_IS_PIR = "begins a record in PIR format, whose second line is a title; convert the file to FASTA"
_IS_GAP_LINE = "is how tbl2asn marks a gap in the record above; write N there, or remove this line"
_HAS_RESIDUES = "looks like an id and its sequence on one line; put a line break between them"
_IS_RESIDUES = "is a header, but looks like a sequence; write `>id` there, and the sequence below"
_ENTITIES = frozenset(("ccd", "smiles", "ligand", "glycan", "dna", "rna", "protein"))
# How odd headers begin. The kind of a molecule may follow the short name of a chain.
_ODD_HEADER = re.compile(
    rf"\n(?:(?P<pir>(?:P1|F1|D[LC]|R[LC]|N[13]|XX);)|(?P<gap>\?(?:unk)?[0-9]+$)|"
    rf"(?:[^|\n]{{,5}}\|)?(?i:{'|'.join(sorted(_ENTITIES))})(?![^|\s]))",
    re.MULTILINE,
)
# Reduced alphabets: Dayhoff's classes of amino acids, and hydrophobic (H) or polar (P).
_REDUCED = b"ABCDEF", b"HP"
# How sequences in another alphabet may begin; proteins seldom begin so.
_UNUSUAL = re.compile(
    rb"\n(?:[HECTSGBIPL]{15}|[ACGTUN]{12}|[ABCDEF]{15}|[HP]{15}|(?:%b){2})" % b"|".join(AMINO_ACIDS)
)
_USUAL, _WORD_LETTERS = bytes(byte for byte in range(256) if byte not in b"OU"), 20
_COMPLEMENT, _STRAND_MIN = bytes.maketrans(b"ACGTU", b"TGCAA"), 10


def find_suspicious_records(
    records: Records, text: bytes, molecule: Molecule, rna_refused: bool
) -> Iterator[tuple[int, Finding]]:
    """Yield the numbers, from 0, of records that look like something else, each with a finding.

    A record may be yielded twice. text: the residues of all records, joined. rna_refused: whether
    RNA is yielded for a model of DNA.
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
    """Yield the number, from 0, of each line in which `expression` is found, and the match.

    feed: the line feed, str or bytes. Each line of the text begins with it, and so does each match.
    """
    number, place = -1, 0
    for found in expression.finditer(text):
        number += text.count(feed, place, found.start() + 1)
        place = found.start() + 1
        yield number, found


def _find_odd_headers(records: Records, molecule: Molecule) -> Iterator[tuple[int, Finding]]:
    """Yield findings for headers that show another format or molecule, or end with residues."""
    for number, found in _search(_ODD_HEADER, "\n" + "\n".join(records.headers), "\n"):
        if what := _name_header(found, records.sequence_ids[number], molecule):
            yield number, Finding(0, records.headers[number].encode(), what)
    last = np.frombuffer(records.block, np.uint8)[records.ends - 1]
    for number in np.flatnonzero(_IS_AMINO_ACID[last]).tolist():
        header = records.headers[number]
        end = _HEADER_RESIDUES.search(header[-_HEADER_END:])
        if end and len(set(end[0])) > 3 and end[0].encode() not in records.residues[number]:
            what = _IS_RESIDUES if end[0] == header[-_HEADER_END:] else _HAS_RESIDUES
            yield number, Finding(0, header.encode(), what)


def _name_header(found: re.Match[str], sequence_id: str, molecule: Molecule) -> str | None:
    if found["pir"] or found["gap"]:
        return _IS_PIR if found["pir"] else _IS_GAP_LINE
    # Headers for Boltz and Chai name the kind of the molecule.
    kinds = _ENTITIES.intersection(sequence_id.lower().split("|")[:2])
    if kinds - {"protein" if molecule == "protein" else "dna"}:
        return f"says that this is {', '.join(kinds)}, not {molecule}; remove the record"
    return None


def _find_double_strands(records: Records) -> Iterator[tuple[int, Finding]]:
    """Yield findings for records whose second line of residues is the other strand of the first."""
    headers = np.searchsorted(records.line_begins, records.begins)
    for number in np.flatnonzero(np.append(headers[1:], len(records.line_begins)) - headers > 2):
        one, two = (records.line(headers[number] + below).upper() for below in (1, 2))
        if len(one) >= _STRAND_MIN and one.translate(_COMPLEMENT) in (two, two[::-1]):
            what = "is the other strand of the line above; remove one strand"
            yield int(number), Finding(2, two, what)


def _find_rna(records: Records, text: bytes) -> Iterator[tuple[int, Finding]]:
    """Yield findings for RNA, which has U in place of T; a model of DNA does not know U."""
    for number, residues in enumerate(records.residues if b"U" in text else []):
        if b"T" not in residues and residues.count(b"U") >= max(2, len(residues) / 20):
            yield number, Finding(1, residues, "is RNA, and the model reads DNA; replace U with T")


def _find_words(records: Records) -> Iterator[tuple[int, Finding]]:
    """Yield findings for short sequences that have more O and U than peptides, as words have."""
    short = (records.lengths > 3) & (records.lengths <= _WORD_LETTERS)
    for number in np.flatnonzero(short).tolist():
        residues = records.residues[number]
        rare = residues.translate(None, _USUAL)
        if b"O" in rare and len(rare) >= max(2, len(residues) / 5):
            yield number, Finding(1, residues, IS_WORD)


def _name_protein(residues: bytes) -> str | None:
    if is_three_letters(residues):
        return THREE_LETTERS
    various = len(set(residues)) > 1
    in_runs = sum(map(len, _RUNS.findall(residues)))
    if not residues.translate(None, _STRUCTURE) and various and in_runs >= len(residues) / 3:
        return "looks like secondary structure, not residues; remove the record"
    dayhoff, polarity = (not residues.translate(None, letters) for letters in _REDUCED)
    # Proteins seldom have B, the code for an uncertain residue.
    if (dayhoff and b"B" in residues) or (polarity and various):
        return "looks like classes of amino acids, not residues; give the original sequence"
    counts = [residues.count(byte) for byte in NUCLEOTIDES]
    is_dna = sum(counts) >= DNA_MIN_SHARE * len(residues)
    # Three letters, at least, are frequent.
    if is_dna and len(residues) >= MIN_RECORD_LETTERS and sorted(counts)[-3] > len(residues) / 20:
        return "looks like DNA or RNA; translate it first, or remove the record"
    return None
