"""Find a missing header, or a word above a sequence, by the widths of lines."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from seqembed.checks.lines import Finding, Place
from seqembed.fasta.records import Records

# A program wraps at one width: many widths come from wrapping by hand.
_MOST_STEPS = 0.05
_LEAST_EQUAL = 4
# Rare in a short line of residues, frequent in words.
_RARE = re.compile(rb"[OUBZ]", re.IGNORECASE)
_SHORT = 30
# Annotations of topology and structure are long runs of a letter, residues are not.
_RUNS = re.compile(rb"(?s)(.)\1*")
_ANNOTATION_MIN = 15
_ANNOTATION = "looks like an annotation of the line above it, not residues; remove such lines"
_WORD = "looks like a word above a sequence, not residues"
_MISSING_HEADER = (
    "is shorter than the line below it, though the lines of this file have one width: a header "
    "seems to be missing between them"
)
_WORDS = frozenset(
    b"ALPHA CHAIN DELTA DRAFT FAMILY FRAGMENT GAMMA HELICASE KINASE LIGASE LIKE LIPASE MATRIX "
    b"PARTIAL PEPTIDE PEPTIDASE PHAGE PLASMID PREDICTED PRIMASE REPEAT SAPIENS SIMILAR SPECIES "
    b"STRAIN SYNTHASE TITLE TRANSFERASE TRANSMEMBRANE VARIANT VIRAL".split()
)


@dataclass
class LineWidths:
    """Counts pairs of neighbouring lines within the sequences of one file.

    words: whether to look for words. equal: pairs of one width; steps: pairs whose second line is
    longer.
    """

    words: bool
    pairs: int = 0
    equal: int = 0
    steps: int = 0
    first_annotation: Place | None = None
    first_step: Place | None = None
    first_word: Place | None = None

    def add(self, records: Records, text: bytes) -> None:
        """Count the pairs of one block; blank lines are left out."""
        widths = records.line_ends - records.line_begins
        letters = np.frombuffer(records.block + b"\n", np.uint8)[records.line_begins]
        # On Windows a blank line has a carriage return.
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
        # Two lines between two headers, or at the end of the block.
        alone = np.append(False, header[:-2]) & np.append(header[2:], True)
        for place in np.flatnonzero(same & alone).tolist():
            self._look_below(records, int(filled[place + 1]))

    def _look_below(self, records: Records, number: int) -> None:
        """Note a line of the block, by its number, that annotates the one above it."""
        line = b"".join(records.line(number).split())
        if len(line) >= _ANNOTATION_MIN and len(_RUNS.findall(line)) * 5 < len(line):
            place = records.lines[0] + number
            self.first_annotation = self.first_annotation or (place, Finding(0, line, _ANNOTATION))

    def _look(self, records: Records, number: int, next_number: int) -> None:
        """Count a line of the block, by its number, if it is shorter than the next one."""
        line, below = (b"".join(records.line(n).split()) for n in (number, next_number))
        # Blanks, or a carriage return, are no part of their width.
        if not line or len(line) >= len(below):
            return
        self.steps += 1
        place = records.lines[0] + number
        self.first_step = self.first_step or (place, Finding(0, line, _MISSING_HEADER))
        if (
            self.words
            and not self.first_word
            and (_is_word(line, below) or _repeats_id(records, number, line))
        ):
            self.first_word = place, Finding(0, line, _WORD)

    def find(self) -> Place | None:
        """Return what is suspicious about the file, with its line (from 1)."""
        few = self.steps <= max(1, _MOST_STEPS * self.pairs)
        if few and self.equal >= _LEAST_EQUAL:
            return self.first_annotation or self.first_word or self.first_step
        return self.first_annotation or self.first_word


def _repeats_id(records: Records, number: int, line: bytes) -> bool:
    """Whether a line repeats the id of the header above it."""
    owner = int(np.searchsorted(records.begins, records.line_begins[number], "right")) - 1
    above = records.block[records.ends[owner] : records.line_begins[number]]
    return not above.strip() and records.sequence_ids[owner].encode() == line


def _is_word(line: bytes, below: bytes) -> bool:
    """Whether a line is a word rather than residues; below: the next line, which is longer."""
    if not line.isalpha() or len(line) > _SHORT:
        return False
    cased = line != line.upper() and below == below.upper()
    return cased or bool(_RARE.search(line)) or line.upper() in _WORDS
