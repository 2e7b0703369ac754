"""Count characters that sequences should not hold, and keep the first places for a message."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from seqembed.errors import count_of
from seqembed.fasta.characters import name_character
from seqembed.fasta.records import Record

SHOWN_PLACES, SHOWN_KINDS = 10, 5
SHOWN_ID, SHOWN_PATH = 60, 200


@dataclass(frozen=True, slots=True)
class Unknown:
    """`count` unknown characters of a sequence; name, position (from 1): of the first."""

    name: str
    position: int
    count: int

    def __str__(self) -> str:
        return f"{self.name} at {self.position:,}"


def find_unknown(residues: bytes, letters: bytes) -> Unknown | None:
    """Find the characters of a sequence that are not among `letters`."""
    others = residues.translate(None, letters)
    if not others:
        return None
    place = residues.index(others[:1])
    count = len(others.decode(errors="surrogateescape"))
    return Unknown(name_character(residues, place), place + 1, count)


class Tally:
    """Counts characters that are not among `letters`, over all files, in constant memory.

    noun: what a message calls such a character. sequences: how many hold any; counts: by name.
    """

    def __init__(self, letters: bytes, noun: str) -> None:
        self.letters, self.sequences = letters, 0
        self.counts: Counter[str] = Counter()
        self._noun = noun
        self._places: list[str] = []

    def add(self, path: Path, record: Record) -> Unknown | None:
        """Count the unknown characters of a record; return those of this record, None for none."""
        if unknown := find_unknown(record.residues, self.letters):
            self.sequences += 1
            self.counts.update(_count_characters(record.residues.translate(None, self.letters)))
            if len(self._places) < SHOWN_PLACES:
                self._places.append(_describe(path, record, unknown))
        return unknown

    @property
    def amounts(self) -> tuple[str, str, str]:
        """For a message: how many characters, how many sequences, and how many of each kind."""
        kinds = self.counts.most_common(SHOWN_KINDS)
        shown = ", ".join(f"{name} {count:,}" for name, count in kinds)
        more = ", ..." if len(self.counts) > SHOWN_KINDS else ""
        characters = count_of(self.counts.total(), self._noun)
        return characters, count_of(self.sequences, "sequence"), f"({shown}{more})"

    @property
    def first(self) -> str:
        """For a message: the first ten places."""
        return "; the first: " + "; ".join(self._places)


def _count_characters(text: bytes) -> dict[str, int]:
    """Count each character, by name; a byte that belongs to no character counts as one."""
    if text.isascii():
        return {name_character(bytes([byte]), 0): count for byte, count in Counter(text).items()}
    letters = Counter(text.decode(errors="surrogateescape"))
    return {
        name_character(letter.encode(errors="surrogateescape"), 0): count
        for letter, count in letters.items()
    }


def _describe(path: Path, record: Record, unknown: Unknown) -> str:
    sequence_id, name = record.sequence_id, str(path)
    shown = sequence_id[:SHOWN_ID] + "..." * (len(sequence_id) > SHOWN_ID)
    file = "..." * (len(name) > SHOWN_PATH) + name[-SHOWN_PATH:]
    such = f" ({unknown.count:,} such)" if unknown.count > 1 else ""
    return f"{file}, line {record.line}, record {shown!r}: {unknown}{such}"
