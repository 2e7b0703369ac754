"""FASTA records, and the fast way to many of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_ID_BYTES = 1024

_LINE_FEED, _HEADER, _STOP = b"\n>*"
# Upper case; what needs a closer look than parse_clean's is NUL.
_PLAIN = bytes(
    0 if byte <= 32 or byte == 127 or byte in b">;" else byte for byte in bytes(range(256)).upper()
)


class Record(NamedTuple):
    """A record; `line` (from 1) and `byte_offset` (from 0, decompressed) are its header's.

    residues: upper case, without blanks and one `*` at the end; whether they are residues at all
    is not looked at.
    """

    sequence_id: str
    description: str
    residues: bytes
    line: int
    byte_offset: int


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records of a file, in columns: lists of one length, of what a Record has."""

    sequence_ids: list[str]
    descriptions: list[str]
    residues: list[bytes]
    lines: list[int]
    byte_offsets: list[int]

    @classmethod
    def of(cls, records: list[Record]) -> Records:
        """At least one record."""
        return cls(*map(list, zip(*records, strict=True)))

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Record]:
        columns = self.sequence_ids, self.descriptions, self.residues, self.lines, self.byte_offsets
        return map(Record, *columns)


def parse_clean(block: bytes, line: int, offset: int) -> Records | None:
    """The records of a block of whole ones, which begins at this line and offset of its file.

    None where anything is not as it is in most files, be it a fault or not: blanks in the sequence,
    tabs in a header, ids of hundreds of letters. There are few operations a record, and none of
    them is a search of its residues.
    """
    if not block.startswith(b">") or b"\r" in block:
        return None
    letters = np.frombuffer(block, np.uint8)
    line_ends = np.flatnonzero(letters == _LINE_FEED)
    line_begins = np.append(0, line_ends + 1)
    if line_begins[-1] == len(block):
        line_begins = line_begins[:-1]
    headers = np.flatnonzero(letters[line_begins] == _HEADER)
    if headers[-1] >= len(line_ends):
        return None
    begins, ends = line_begins[headers], line_ends[headers]
    # Without line feeds, a letter moves forward by as many as there were before it.
    residues = _cut_residues(block.translate(_PLAIN, b"\n"), begins - headers, ends - headers)
    names = _cut_headers(block, (begins + 1).tolist(), ends.tolist())
    if residues is None or names is None:
        return None
    return Records(*names, residues, (headers + line).tolist(), (begins + offset).tolist())


def _cut_residues(
    text: bytes, headers: NDArray[np.int64], begins: NDArray[np.int64]
) -> list[bytes] | None:
    """The sequences in a block without line feeds; None where one is empty, or not plain.

    headers, begins: where each header begins, and, behind it, its sequence, (n,).
    """
    ends = np.append(headers[1:], len(text))
    ends = ends - (np.frombuffer(text, np.uint8)[ends - 1] == _STOP)
    if (begins >= ends).any():
        return None
    residues = [text[b:e] for b, e in zip(begins.tolist(), ends.tolist(), strict=True)]
    return None if b"\0" in b"".join(residues) else residues


def _cut_headers(
    block: bytes, begins: list[int], ends: list[int]
) -> tuple[list[str], list[str]] | None:
    """Ids and descriptions of the headers between these places; None where one is not plain."""
    try:
        text = b"\n".join([block[b:e] for b, e in zip(begins, ends, strict=True)]).decode("utf-8")
    except UnicodeDecodeError:
        return None
    if any(odd in text for odd in "\0\t\v\f"):
        return None
    parts = [header.partition(" ") for header in text.split("\n")]
    ids = [sequence_id for sequence_id, _, _ in parts]
    # A letter has at most four bytes.
    if not all(ids) or 4 * max(map(len, ids)) > MAX_ID_BYTES:
        return None
    return ids, [description.strip(" ") for _, _, description in parts]
