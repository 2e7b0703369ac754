"""Parse many FASTA records at once from a block of text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_ID_BYTES = 1024
BLANKS = b" \t\r\n\v\f"
GAPS = b"-."
# An id ends at one of these characters. A no-break space looks like a blank, and NCBI joins the
# headers of equal sequences by \x01.
_BLANK_TEXT = re.compile("[ \t\x01\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")

_LINE_FEED, _RETURN, _BLANK, _HEADER, _STOP, _DOT, _DASH = b"\n\r >*.-"
# ASCII characters that make a header odd: NUL, and those that end an id, except for the blank.
_ODD_IN_HEADERS = "\0\t\r\x01"
# A sequence that holds only these letters is not odd, unless the sequence is empty.
_LETTERS = bytes(range(ord("A"), ord("Z") + 1)) + b"*"
# Blanks and control characters, which are dropped from sequences.
_DROPPED = bytes(range(_BLANK + 1))

Places = NDArray[np.int64]


class Record(NamedTuple):
    """A record of a FASTA file; its residues are not checked.

    residues: in upper case, without blanks, and without a stop, `*` or `.`, at the end. line: the
    number of the header's line, from 1. byte_offset: where the header begins in the decompressed
    file, from 0.
    """

    sequence_id: str
    description: str
    residues: bytes
    line: int
    byte_offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """n consecutive records of a file, in columns.

    sequence_ids, descriptions, residues, lines, byte_offsets: as in Record. headers: without `>`
    and without blanks at the end. lengths: the number of residues of each sequence, (n,) int64.
    block: the text of the records in the file. begins, ends: offsets of each header's `>` and of
    the end of its line in `block`, (n,) int64. line_begins, line_ends: offsets of the m lines of
    `block`, headers included, (m,) int64. odd: the numbers, from 0, ascending, of records that may
    be faulty: the header is not ASCII or has no valid id, or the sequence is empty, or it holds
    blanks or other characters than upper-case letters and `*`.
    """

    sequence_ids: list[str]
    descriptions: list[str]
    residues: list[bytes]
    lines: list[int]
    byte_offsets: list[int]
    headers: list[str]
    lengths: Places
    block: bytes
    begins: Places
    ends: Places
    line_begins: Places
    line_ends: Places
    odd: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Record]:
        return map(Record, *self._columns)

    def __getitem__(self, number: int) -> Record:
        return Record(*(column[number] for column in self._columns))

    @property
    def _columns(self) -> tuple[list[Any], ...]:
        return self.sequence_ids, self.descriptions, self.residues, self.lines, self.byte_offsets

    def raw(self, number: int) -> bytes:
        """Return the text of record `number`, from 0, as it is in the file, with its header."""
        end = self.begins[number + 1] if number + 1 < len(self) else len(self.block)
        return self.block[self.begins[number] : end]

    def line(self, number: int) -> bytes:
        """Return line `number`, from 0, of the block, without the blanks around it."""
        return self.block[self.line_begins[number] : self.line_ends[number]].strip()


def parse(block: bytes, line: int, offset: int, *, without_gaps: bool = False) -> Records:
    """Return the records of a block that begins with a header and holds complete records.

    line, offset: the number of the block's first line, from 1, and the block's byte offset in the
    decompressed file. without_gaps: drop `-` and `.` from sequences. Faulty records are returned,
    too, and their numbers are in `odd`.
    """
    letters = np.frombuffer(block, np.uint8)
    is_dropped = letters <= _BLANK
    if without_gaps:
        is_dropped |= (letters == _DASH) | (letters == _DOT)
    dropped = np.flatnonzero(is_dropped)
    line_feeds = dropped[letters[dropped] == _LINE_FEED]
    # An empty last line is no line.
    line_ends = line_feeds if block.endswith(b"\n") else np.append(line_feeds, len(block))
    line_begins = np.append(0, line_ends[:-1] + 1)
    numbers = np.flatnonzero(letters[line_begins] == _HEADER)
    begins, ends = line_begins[numbers], line_ends[numbers]
    packed = block.translate(None, _DROPPED + GAPS if without_gaps else _DROPPED)
    cased, lengths = _cut_residues(packed, dropped, begins, ends)
    residues, odd_residues = _upper(cased)
    headers = _decode_headers(block, begins + 1, ends)
    ids, descriptions, odd_names = _cut_headers(headers)
    odd = sorted({*odd_names, *odd_residues, *_find_odd_lines(letters, dropped, begins, ends)})
    places = (numbers + line).tolist(), (begins + offset).tolist()
    columns = (ids, descriptions, residues, *places, headers, lengths)
    return Records(*columns, block, begins, ends, line_begins, line_ends, odd)


def _cut_usual(header: str) -> tuple[str, str]:
    sequence_id, _, description = header.partition(" ")
    return sequence_id, description.lstrip(" ")


def cut_header(header: str) -> tuple[str, str]:
    """Split a header, without its `>`, at its first blank into the id and the description."""
    sequence_id, *rest = _BLANK_TEXT.split(header, maxsplit=1)
    return sequence_id, rest[0].strip(" \t") if rest else ""


def _cut_residues(
    packed: bytes, dropped: Places, begins: Places, ends: Places
) -> tuple[list[bytes], Places]:
    """Return the n sequences of a block, not yet in upper case, and their lengths, (n,) int64.

    packed: the block without the bytes at the offsets `dropped`, such as line feeds. begins, ends:
    the offsets in the block where each header begins and ends, (n,).
    """
    # The offset of a byte in `packed` is less by the number of bytes that were dropped before it.
    first = ends - np.searchsorted(dropped, ends)
    last = np.append(begins[1:], len(packed) + len(dropped))
    last = last - np.searchsorted(dropped, last)
    last = last - _has_stop(packed, first, last)
    cased = [packed[b:e] for b, e in zip(first.tolist(), last.tolist(), strict=True)]
    return cased, last - first


def _has_stop(packed: bytes, first: Places, last: Places) -> NDArray[np.bool_]:
    """Return which sequences end with a stop, (n,) bool: a `*`, or a `.` that follows no gap.

    first, last: the offsets in `packed` where each sequence begins and ends, (n,).
    """
    letters = np.frombuffer(packed, np.uint8)
    final, before = letters[last - 1], letters[np.maximum(last - 2, 0)]
    gap = (last - first > 1) & ((before == _DOT) | (before == _DASH))
    stop: NDArray[np.bool_] = (final == _STOP) | ((final == _DOT) & ~gap)
    return stop & (last > first)


def _decode_headers(block: bytes, begins: Places, ends: Places) -> list[str]:
    """Return n headers as text, without blanks at the ends; begins, ends: their offsets, (n,)."""
    headers = [block[b:e] for b, e in zip(begins.tolist(), ends.tolist(), strict=True)]
    try:
        texts = b"\n".join(headers).decode().split("\n")
    except UnicodeDecodeError:
        texts = [_decode_header(header) for header in headers]
    letters = np.frombuffer(block, np.uint8)
    # Few headers have blanks at their ends. With a blank before the id, a header has no id.
    edges = letters[np.append(ends - 1, np.minimum(begins, len(block) - 1))]
    if np.any(edges <= _BLANK):
        texts = [text.rstrip(" \t\r\v\f") for text in texts]
        return [text.lstrip(" \t\v\f") if text[:1] in ("\v", "\f") else text for text in texts]
    return texts


def _decode_header(header: bytes) -> str:
    """Return a header as text: from UTF-8 or, if it is not UTF-8 (old databases), from Latin-1."""
    try:
        return header.decode()
    except UnicodeDecodeError:
        return header.decode("latin-1")


def _cut_headers(headers: list[str]) -> tuple[list[str], list[str], list[int]]:
    """Return ids, descriptions, and the numbers, ascending, of headers that may be faulty."""
    joined = "\n".join(headers)
    # In a usual header a blank ends the id. A search for all characters that may takes much longer.
    usual = joined.isascii() and not any(odd in joined for odd in _ODD_IN_HEADERS)
    cut = map(_cut_usual if usual else cut_header, headers)
    ids, descriptions = map(list, zip(*cut, strict=True))
    if usual and all(ids) and max(map(len, ids)) <= MAX_ID_BYTES:
        return ids, descriptions, []
    odd = [
        number
        for number, (sequence_id, header) in enumerate(zip(ids, headers, strict=True))
        if not (0 < len(sequence_id) <= MAX_ID_BYTES and header.isascii())
        or any(letter in header for letter in _ODD_IN_HEADERS)
    ]
    return ids, descriptions, odd


def _upper(cased: list[bytes]) -> tuple[list[bytes], list[int]]:
    """Return the sequences in upper case, and the numbers, ascending, of any that may be faulty."""
    if not b"".join(cased).translate(None, _LETTERS):
        return cased, [number for number, residues in enumerate(cased) if not residues]
    odd = [n for n, text in enumerate(cased) if not text or text.translate(None, _LETTERS)]
    return [residues.upper() for residues in cased], odd


def _find_odd_lines(
    letters: NDArray[np.uint8], dropped: Places, begins: Places, ends: Places
) -> list[int]:
    """Return the numbers of records with dropped blanks or gaps, or a carriage return in a line.

    letters: the block's bytes. dropped: the offsets of all blanks and, if gaps are dropped, of all
    gaps, also in headers. begins, ends: the offsets where each header begins and ends, (n,).
    """
    kinds = letters[dropped]
    returns = dropped[kinds == _RETURN]
    in_headers = int((np.searchsorted(dropped, ends) - np.searchsorted(dropped, begins)).sum())
    # Most blocks have no blanks but those within headers, and line feeds.
    if not len(returns) and in_headers + np.count_nonzero(kinds == _LINE_FEED) == len(dropped):
        return []
    # A return may be the last byte of the block.
    following = letters[np.minimum(returns + 1, len(letters) - 1)]
    lone = returns[(following != _LINE_FEED) & (following != _RETURN)]
    others = dropped[(kinds != _LINE_FEED) & (kinds != _RETURN)]
    owners = np.searchsorted(begins, others, "right") - 1
    inner = owners[others > ends[owners]]
    return [*set(inner.tolist()), *(np.searchsorted(begins, lone, "right") - 1).tolist()]
