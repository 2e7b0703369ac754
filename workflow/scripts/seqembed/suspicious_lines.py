"""Lines of a record that cannot be residues of a molecule, or that look like something else."""

from __future__ import annotations

import re
from typing import NamedTuple

from seqembed.characters import name_character
from seqembed.models.families import Molecule

GREP_SEPARATOR = b"--"
SHOWN_BYTES = 60
# Every letter may stand for an amino acid, or several; of nucleotides these are IUPAC's codes, U of
# RNA, and the X of programs that mask. Stops and gaps may be in both.
POSSIBLE = {
    "protein": bytes(range(ord("A"), ord("Z") + 1)) + b"*.-",
    "DNA": b"ACGTURYSWKMBDHVNX*.-",
}
_IMPOSSIBLE = {
    molecule: re.compile(rb"[^" + re.escape(letters + letters.lower()) + rb"\s]")
    for molecule, letters in POSSIBLE.items()
}
_CHAINS = b":/|"
AMINO_ACIDS = frozenset(
    b"ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL "
    b"SEC PYL ASX GLX XAA UNK MSE".split()
)
# Blocks of another size than ten are taken for blocks where a line has several.
_BLOCK, _FEW_GROUPS = 10, 3
_NUCLEOTIDES = b"ACGTUNacgtun \t"
_INNER_BLANK = re.compile(rb"\S[ \t]+\S")
_DASH_OR_DOT = re.compile(rb"[.-]")
_FILE_NAME = re.compile(
    rb"[A-Za-z]+\.(fa|fas|faa|fna|ffn|fasta|pep|seq|txt|gz|pdb|cif|gb|gbk|aln|tsv|csv|a3m|sto)",
    re.IGNORECASE,
)
# Residues on both sides of where a protease cuts, as search engines of mass spectra write them.
_FLANKED = re.compile(rb"[A-Z-]\.[A-Za-z]+\.[A-Z-]")
# SaProt's pairs of a residue and a letter of structure.
_PAIRS = re.compile(rb"(?:[A-Z][a-z]){8}")
_PHOSPHORYLATED = re.compile(rb"(?<![a-z])p[STY](?![a-z])")
# What programs write where a table has no value.
_MISSING = frozenset(b"nan NaN none None null Null NULL NONE nil undefined".split())


class Finding(NamedTuple):
    """What a line of a record looks like; `line` counts from the record's header, 0."""

    line: int
    text: bytes
    what: str


def show(text: bytes) -> str:
    """The beginning of a line, as a message quotes it."""
    cut = text[:SHOWN_BYTES].decode(errors="replace")
    return repr(cut + "..." * (len(text) > SHOWN_BYTES))


def find_impossible(raw: bytes, molecule: Molecule) -> Finding | None:
    """The first line of a record that holds what is no residue of this molecule."""
    body = raw.find(b"\n")
    found = _IMPOSSIBLE[molecule].search(raw, body) if body >= 0 else None
    if not found:
        return None
    line = raw.count(b"\n", 0, found.start())
    text = raw.split(b"\n")[line].strip()
    advice = "correct the line, or remove it"
    if found[0] in _CHAINS:
        advice = "give each chain of a complex a record of its own"
    what = f"cannot be residues of {molecule}, for {name_character(raw, found.start())}; {advice}"
    return Finding(line, text, what)


def find_suspicious(raw: bytes, molecule: Molecule, *, gaps_kept: bool) -> Finding | None:
    """The first line of a record that looks like something else than residues.

    gaps_kept: `-` and `.` are embedded.
    """
    body = raw[raw.find(b"\n") + 1 :]
    if molecule == "protein" and (what := _find_in_protein(body)):
        line = next(line for line in body.split(b"\n") if line.strip())
        return Finding(1 + body.split(b"\n").index(line), line.strip(), what)
    if body.strip() in _MISSING:
        return Finding(1, body.strip(), "is what programs write for a missing value")
    # Most records have neither, and need not be cut into lines.
    if not (_INNER_BLANK.search(body) or _DASH_OR_DOT.search(body)):
        return None
    lines = [line.strip() for line in body.split(b"\n")]
    findings = [*_find_words(lines, molecule), *_find_other_lines(lines, gaps_kept)]
    return min(findings, default=None, key=lambda finding: finding.line)


def _find_in_protein(body: bytes) -> str | None:
    """What a sequence, with blanks and line breaks, looks like as a whole."""
    if is_three_letter_codes(body):
        return "looks like three-letter codes; write one letter a residue"
    if _FLANKED.fullmatch(body.strip()):
        return "looks like a peptide with the residues beside it; write the peptide alone"
    if _PAIRS.search(body):
        return "has small letters between large ones, as SaProt's pairs; write residues alone"
    if _PHOSPHORYLATED.search(body):
        return "has pS, pT or pY, as for phosphorylated residues; write S, T or Y"
    return None


def is_three_letter_codes(text: bytes) -> bool:
    """Whether these are names of amino acids, as in `MetLys` or `MET LYS`."""
    letters = re.sub(rb"[\s-]", b"", text)
    if len(letters) % 3 or not letters.isalpha():
        return False
    codes = [letters[place : place + 3] for place in range(0, len(letters), 3)]
    marked = all(code.istitle() for code in codes) or re.search(rb"[A-Za-z][ -][A-Za-z]", text)
    return len(codes) >= (2 if marked else 4) and all(c.upper() in AMINO_ACIDS for c in codes)


def _find_words(lines: list[bytes], molecule: Molecule) -> list[Finding]:
    """The first line with blanks that are not between blocks of one size."""
    blocks = {_block_size(line) for line in lines if len(line.split()) > 1}
    solid = max((len(line) for line in lines if len(line.split()) == 1), default=0)
    for number, line in enumerate(lines, 1):
        groups, size = line.split(), _block_size(line)
        if len(groups) < 2 or (molecule == "DNA" and not line.translate(None, _NUCLEOTIDES)):
            continue
        few = len(groups) < _FEW_GROUPS and size != _BLOCK and len(blocks) == len(lines) == 1
        # A line of residues in blocks has no neighbour that is longer than a block and has none.
        if not size or len(blocks) > 1 or few or solid > size:
            return [Finding(number, line, "looks like words, not residues")]
    return []


def _block_size(line: bytes) -> int:
    """The size of the blocks that blanks divide a line into; 0 where they are of several sizes."""
    *whole, last = map(len, line.split()) if line else [0]
    return whole[0] if len(set(whole)) == 1 and last <= whole[0] else 0


def _find_other_lines(lines: list[bytes], gaps_kept: bool) -> list[Finding]:
    """The first line that grep or the shell left between residues."""
    for number, line in enumerate(lines, 1):
        if line == GREP_SEPARATOR and gaps_kept:
            what = "is what `grep -A` writes between matches; remove these lines"
            return [Finding(number, line, what)]
        if _FILE_NAME.fullmatch(line):
            return [Finding(number, line, "looks like the name of a file")]
    return []
