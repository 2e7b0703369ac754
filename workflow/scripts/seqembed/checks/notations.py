"""Recognise sequences that are not written as one letter a residue."""

from __future__ import annotations

import re

from seqembed.models.families import Molecule

AMINO_ACIDS = frozenset(
    b"ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL "
    b"SEC PYL ASX GLX XAA UNK MSE".split()
)
NO_SEQUENCE = "is written where a sequence is missing"
THREE_LETTERS = "looks like three-letter codes; write one letter a residue"
# What programs write for a missing sequence, and people, in any case.
_MISSING = frozenset(b"nan NaN none None NONE null Null NULL nil".split())
_WORDS = frozenset(
    b"error obsolete protein removed seq sequence tbd todo unavailable undefined unknown".split()
)
_LONGEST_WORD = 40
_DISPLAYED = re.compile(rb"\A[A-Za-z\s]+\.{3}[A-Za-z\s]*\Z")
# Expressions to search in a protein's text, and what it is if one is found.
_PROTEIN = {
    # Search engines of mass spectra write the residues on both sides of a protease's cut.
    re.compile(rb"\A\s*[A-Z-]\.[A-Za-z]+\.[A-Z-]\s*\Z"): (
        "looks like a peptide with the residues beside it; write the peptide alone"
    ),
    re.compile(
        rb"\A\s*(?:(?:Ac|Boc|Fmoc|Bz|For|Suc|pGlu)-[A-Za-z-]+|[A-Za-z-]+-(?:OH|OMe|OEt|AMC|NHMe))\s*\Z"
    ): ("looks like a peptide with its chemical ends; write the residues alone"),
    re.compile(rb"\A\s*(?:[A-Za-z]-){3,}[A-Za-z]\s*\Z"): (
        "has a dash between all residues; write the residues alone"
    ),
    re.compile(rb"(?:[A-Z][a-z]){8}"): (
        "has lower-case letters between upper-case ones, as SaProt has them; write residues alone"
    ),
    re.compile(rb"(?<![a-z])p[STY](?![a-z])"): (
        "has pS, pT or pY, as for phosphorylated residues; write S, T or Y"
    ),
}


def find_notation(body: bytes, molecule: Molecule) -> str | None:
    """Return what the text of a sequence, line breaks included, looks like; None for residues."""
    short = len(body) < _LONGEST_WORD and body.strip()
    if short and (short in _MISSING or short.lower() in _WORDS):
        return NO_SEQUENCE
    if b"..." in body and _DISPLAYED.search(body):
        return "looks cut, as a table shows a long text; write all of it"
    if molecule == "DNA":
        return None
    if is_three_letter_codes(body):
        return THREE_LETTERS
    return next((what for kind, what in _PROTEIN.items() if kind.search(body)), None)


def is_three_letter_codes(text: bytes) -> bool:
    """Whether the text is three-letter codes, as in `MetLys` or `MET LYS`."""
    letters = re.sub(rb"[\s-]", b"", text)
    # Most sequences do not begin with a code, and need not be cut.
    if letters[:3].upper() not in AMINO_ACIDS or len(letters) % 3 or not letters.isalpha():
        return False
    codes = [letters[place : place + 3] for place in range(0, len(letters), 3)]
    marked = all(code.istitle() for code in codes) or re.search(rb"[A-Za-z][ -][A-Za-z]", text)
    return len(codes) >= (2 if marked else 4) and all(c.upper() in AMINO_ACIDS for c in codes)
