"""Find lines of a record that cannot be residues, or look like words or another notation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from seqembed.fasta.faults import name_character
from seqembed.models.families import Molecule

# The characters that a sequence may hold. Proteins: any letter may stand for amino acids. DNA:
# IUPAC's codes, the U of RNA and the X of masking programs. Both may hold stops and gaps.
POSSIBLE = {
    "protein": bytes(range(ord("A"), ord("Z") + 1)) + b"*.-",
    "DNA": b"ACGTURYSWKMBDHVNX*.-",
}
_PASSING = {
    molecule: letters + letters.lower() + b" \t\n\r\f\v" for molecule, letters in POSSIBLE.items()
}
# Blanks cut a line into groups of letters. Groups of ten letters are blocks of a sequence, and so
# may be three or more groups of one size; others are words.
_BLOCK, _FEW_GROUPS = 10, 3
_NUCLEOTIDES = b"ACGTUNacgtun \t"
_INNER_BLANK = re.compile(rb"\S[ \t]+\S")
_FILE_NAME = re.compile(
    rb"[A-Za-z]+\.(fa|fas|faa|fna|ffn|fasta|pep|seq|txt|gz|pdb|cif|gb|gbk|aln|tsv|csv|a3m|sto)",
    re.IGNORECASE,
)
IS_WORD = "looks like a word, not residues"
# The most letters of a word below a sequence, such as `Killed`.
_LONGEST_WORD = 20
AMINO_ACIDS = frozenset(
    b"ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL "
    b"SEC PYL ASX GLX XAA UNK MSE".split()
)
NO_SEQUENCE = "seems to stand for a missing sequence; write the sequence, or remove the record"
THREE_LETTERS = "looks like three-letter codes; write one letter a residue"
# What programs write for a missing sequence, and what people write, in capitals or not.
_MISSING = frozenset(b"nan NaN none None NONE null Null NULL nil".split())
_MISSING_WORDS = frozenset(
    b"error obsolete protein removed seq sequence tbd todo unavailable undefined unknown".split()
)
_LONGEST_MISSING = 40
_DISPLAYED = re.compile(rb"\A[A-Za-z\s]+\.{3}[A-Za-z\s]*\Z")
# Expressions to search in the text of a protein, and the message if one is found.
_PROTEIN = {
    # Programs for mass spectra write the neighbouring residues on both sides of a peptide.
    re.compile(rb"\A\s*[A-Z-]\.[A-Za-z]+\.[A-Z-]\s*\Z"): (
        "looks like a peptide between its two neighbouring residues; write the peptide alone"
    ),
    re.compile(
        rb"\A\s*(?:(?:Ac|Boc|Fmoc|Bz|For|Suc|pGlu)-[A-Za-z-]+|[A-Za-z-]+-(?:OH|OMe|OEt|AMC|NHMe))\s*\Z"
    ): "looks like a peptide with its chemical ends; write the residues alone",
    re.compile(rb"\A\s*(?:[A-Za-z]-){3,}[A-Za-z]\s*\Z"): (
        "has a dash between all residues; write the residues alone"
    ),
    re.compile(rb"(?:[A-Z][a-z]){8}"): (
        "has lower-case letters between capitals, as SaProt writes them; keep the capitals alone"
    ),
    re.compile(rb"(?<![a-z])p[STY](?![a-z])"): (
        "has pS, pT or pY, as for phosphorylated residues; write S, T or Y"
    ),
}


class Finding(NamedTuple):
    """A line of a record that looks wrong.

    line: its number, where the header is line 0. text: the line, for the message. what: the rest of
    the message. certain: whether the line cannot be residues; then no setting allows it.
    """

    line: int
    text: bytes
    what: str
    certain: bool = False


# The number of a line in the file, from 1, and a finding in this line about the whole file.
Place = tuple[int, Finding]


def find_impossible(raw: bytes, molecule: Molecule) -> Finding | None:
    """Return the first line of a record with a character that cannot be a residue, or None.

    raw: the text of the record in the file, with its header.
    """
    body = raw.find(b"\n")
    others = raw[body:].translate(None, _PASSING[molecule]) if body >= 0 else b""
    if not others:
        return None
    place, letter = raw.index(others[:1], body), others[:4].decode(errors="surrogateescape")[0]
    line = raw.count(b"\n", 0, place)
    text = raw.split(b"\n")[line].strip()
    advice = "correct the sequence, or remove the record"
    if others[:1] in b":/|":
        advice = "write each chain of a complex as a record, or correct the sequence"
    what = f"cannot be residues of {molecule}: it contains {name_character(letter)}; {advice}"
    return Finding(line, text, what, certain=True)


def find_suspicious(raw: bytes, molecule: Molecule, *, gaps_kept: bool) -> Finding | None:
    """Return the first line of a record that looks like something else than residues, or None.

    raw: the text of the record, with its header. gaps_kept: whether `-` and `.` are embedded.
    """
    body = raw[raw.find(b"\n") + 1 :]
    if what := _find_notation(body, molecule):
        numbered = enumerate(body.split(b"\n"), 1)
        number, line = next((number, line) for number, line in numbered if line.strip())
        return Finding(number, line.strip(), what)
    if molecule == "protein" and _ends_with_word(body):
        filled = body.rstrip().split(b"\n")
        return Finding(len(filled), filled[-1].strip(), IS_WORD)
    # Most records have no blanks, dashes or dots, and are not cut into lines.
    blanks = (b" " in body or b"\t" in body) and _INNER_BLANK.search(body)
    if not (blanks or b"-" in body or b"." in body):
        return None
    lines = [line.strip() for line in body.split(b"\n")]
    findings = list(_find_words(lines, molecule))
    for number, line in enumerate(lines, 1):
        if line == b"--" and gaps_kept:
            what = "is what `grep -A` writes between matches; remove these lines"
            findings.append(Finding(number, line, what))
        elif _FILE_NAME.fullmatch(line):
            findings.append(Finding(number, line, "looks like the name of a file"))
    return min(findings, default=None, key=lambda finding: finding.line)


def _ends_with_word(body: bytes) -> bool:
    """Whether the last line is written as a word, such as `Killed`, and the lines above are not."""
    before, _, last = body.strip().rpartition(b"\n")
    if not last.strip().isalpha() or not 2 < len(last.strip()) <= _LONGEST_WORD:
        return False
    return last.istitle() and not before or before.isupper() and (last.istitle() or last.islower())


def _find_words(lines: list[bytes], molecule: Molecule) -> Iterator[Finding]:
    """Yield a finding for each line whose blanks separate words, not equal blocks of residues."""
    cut = [line.split() for line in lines]
    sizes = {_block_size(groups) for groups in cut if len(groups) > 1}
    solid = max((len(groups[0]) for groups in cut if len(groups) == 1), default=0)
    filled = sum(map(bool, cut))
    for number, (line, groups) in enumerate(zip(lines, cut, strict=True), 1):
        if len(groups) < 2:
            continue
        size = _block_size(groups)
        few = len(groups) < _FEW_GROUPS
        two = few and size != _BLOCK and (filled == 1 or size > _BLOCK)
        # Each word begins with all but the first letter of the word before.
        overlap = all(one[1:] == next_[:-1] for one, next_ in pairwise(groups))
        if overlap and not few and len(groups[0]) > 2 and len(set(groups)) > 1:
            yield Finding(number, line, "looks like words that overlap; write the sequence once")
        elif molecule == "DNA" and not line.translate(None, _NUCLEOTIDES):
            continue
        # If residues are in blocks, no line without blanks is longer than a block.
        elif not size or len(sizes) > 1 or two or solid > size:
            yield Finding(number, line, "looks like words, not residues")


def _block_size(groups: list[bytes]) -> int:
    """Return the length that each group has (the last may be shorter); 0 if lengths differ."""
    *whole, last = map(len, groups)
    return whole[0] if len(set(whole)) == 1 and last <= whole[0] else 0


def _find_notation(body: bytes, molecule: Molecule) -> str | None:
    """Return a message if the lines of a sequence look like something else; None for residues."""
    short = len(body) < _LONGEST_MISSING and body.strip()
    if short and (short in _MISSING or short.lower() in _MISSING_WORDS):
        return NO_SEQUENCE
    if b"..." in body and _DISPLAYED.search(body):
        return "is cut short by `...`, as a table shows a long text; write the whole sequence"
    if molecule == "DNA":
        return None
    if is_three_letters(body):
        return THREE_LETTERS
    return next((what for kind, what in _PROTEIN.items() if kind.search(body)), None)


def is_three_letters(text: bytes) -> bool:
    """Whether a text is three-letter codes of amino acids, as in `MetLys` or `MET LYS`."""
    letters = re.sub(rb"[\s-]", b"", text)
    # Most sequences do not begin with a code, and are not cut into codes.
    if letters[:3].upper() not in AMINO_ACIDS or len(letters) % 3 or not letters.isalpha():
        return False
    codes = [letters[place : place + 3] for place in range(0, len(letters), 3)]
    marked = all(code.istitle() for code in codes) or re.search(rb"[A-Za-z][ -][A-Za-z]", text)
    return len(codes) >= (2 if marked else 4) and all(c.upper() in AMINO_ACIDS for c in codes)
