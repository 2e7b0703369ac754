"""The first places of what is wrong with many records, as messages name them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqembed.fasta.characters import name_character
from seqembed.fasta.records import Record

SHOWN_PLACES = 10
SHOWN_ID, SHOWN_PATH = 60, 200


@dataclass(frozen=True, slots=True)
class Unknown:
    """What of a sequence is not among some letters: `count` characters, the first at `position`.

    position: of its first byte, from 1.
    name: of the first character.
    """

    name: str
    position: int
    count: int

    def __str__(self) -> str:
        return f"{self.name} at {self.position:,}"


def find_unknown(residues: bytes, letters: bytes) -> Unknown | None:
    """What of the residues is not among `letters`."""
    others = residues.translate(None, letters)
    if not others:
        return None
    place = residues.index(others[:1])
    count = len(others.decode(errors="surrogateescape"))
    return Unknown(name_character(residues, place), place + 1, count)


class FirstPlaces:
    """Keeps the first ten places."""

    def __init__(self) -> None:
        self._places: list[str] = []

    def add(self, path: Path, record: Record, what: str, count: int) -> None:
        """Note a record with `count` of what is wrong; what: the first of them."""
        if len(self._places) == SHOWN_PLACES:
            return
        sequence_id, name = record.sequence_id, str(path)
        shown = sequence_id[:SHOWN_ID] + "..." * (len(sequence_id) > SHOWN_ID)
        file = "..." * (len(name) > SHOWN_PATH) + name[-SHOWN_PATH:]
        such = f" ({count:,} such)" if count > 1 else ""
        self._places.append(f"{file}, line {record.line}, record {shown!r}: {what}{such}")

    def __str__(self) -> str:
        return "; ".join(self._places)
