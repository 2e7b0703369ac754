"""The first places of what is wrong with many records, as messages name them."""

from __future__ import annotations

from pathlib import Path

from seqembed.records import Record

SHOWN_PLACES = 10
SHOWN_ID, SHOWN_PATH = 60, 200


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


def amount(count: int, noun: str) -> str:
    """A count with its noun, in the plural where there is not one."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
