"""The widths of lines: where a header is missing, or words stand above a sequence."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqembed.records import Records
from seqembed.suspicious_lines import Finding

# A program wraps at one width. Where lines have many, somebody did it by hand.
_MOST_STEPS = 0.05
_LEAST_EQUAL = 4
# Above a sequence, no short line of residues has one of these; many words have.
_RARE = re.compile(rb"[OUBZ]", re.IGNORECASE)
_SHORT = 30
# Topology and structure stand in long runs of a letter, residues do not.
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
    """What the lines of one file have in common.

    words: whether lines are looked at for words. pairs: neighbours within sequences; equal: of one
    width; steps: where the second is longer.
    """

    words: bool
    pairs: int = 0
    equal: int = 0
    steps: int = 0
    first_annotation: tuple[int, Finding] | None = None
    first_step: tuple[int, Finding] | None = None
    first_word: tuple[int, Finding] | None = None

    def add(self, records: Records) -> None:
        """Count the lines of one block."""
        widths, numbers = _inner_widths(records)
        differences = widths[:, 1] - widths[:, 0]
        steps = np.flatnonzero(differences > 0)
        self.pairs += len(widths)
        self.equal += int((differences == 0).sum())
        for number, below in numbers[steps].tolist():
            self._look(records, number, below)
        if not self.first_annotation:
            for number in _find_twins(records, numbers[differences == 0, 0]):
                self._look_below(records, number + 1)

    def _look_below(self, records: Records, number: int) -> None:
        """Note a line, a number in the block, that annotates the one above it."""
        line = _line(records, number)
        if self.words and len(line) >= _ANNOTATION_MIN and len(_RUNS.findall(line)) * 5 < len(line):
            self.first_annotation = records.lines[0] + number, Finding(0, line, _ANNOTATION)

    def _look(self, records: Records, number: int, next_number: int) -> None:
        """Count a line, a number in the block, that seems shorter than the next one."""
        line, below = _line(records, number), _line(records, next_number)
        # Blanks at their ends, or a carriage return, are no part of their width.
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

    def find(self) -> tuple[int, Finding] | None:
        """What is suspicious about the file, with its line (from 1)."""
        few = self.steps <= max(1, _MOST_STEPS * self.pairs)
        if few and self.equal >= _LEAST_EQUAL:
            return self.first_annotation or self.first_word or self.first_step
        return self.first_annotation or self.first_word


def _inner_widths(records: Records) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The widths of neighbouring lines of residues, (n, 2), and the numbers of both, (n, 2).

    Blank lines between them do not count.
    """
    widths = records.line_ends - records.line_begins
    letters = np.frombuffer(records.block + b"\n", np.uint8)
    # On Windows a blank line has a carriage return.
    filled = np.flatnonzero((widths > 1) | (letters[records.line_begins] > ord(" ")))
    header = letters[records.line_begins[filled]] == ord(">")
    inner = np.flatnonzero(~(header[:-1] | header[1:]))
    numbers = np.stack([filled[inner], filled[inner + 1]], 1)
    return widths[numbers], numbers


def _repeats_id(records: Records, number: int, line: bytes) -> bool:
    """Whether a line is the id that stands in the header above it."""
    owner = int(np.searchsorted(records.begins, records.line_begins[number], "right")) - 1
    above = records.block[records.ends[owner] : records.line_begins[number]]
    return not above.strip() and records.sequence_ids[owner].encode() == line


def _line(records: Records, number: int) -> bytes:
    return b"".join(records.block[records.line_begins[number] : records.line_ends[number]].split())


def _find_twins(records: Records, equal: NDArray[np.int64]) -> list[int]:
    """Of lines that are as wide as the one below, those of records that have just these two."""
    headers = np.searchsorted(records.line_begins, records.begins)
    ends = np.append(headers[1:], len(records.line_begins))
    is_equal = np.zeros(len(records.line_begins), np.bool_)
    is_equal[equal] = True
    first = headers[ends - headers == 3] + 1
    twins: list[int] = first[is_equal[first]].tolist()
    return twins


def _is_word(line: bytes, below: bytes) -> bool:
    """Whether a line is a word rather than residues; below: the line after it, which is longer."""
    if not line.isalpha() or len(line) > _SHORT:
        return False
    cased = line != line.upper() and below == below.upper()
    return cased or bool(_RARE.search(line)) or line.upper() in _WORDS
