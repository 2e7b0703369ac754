"""Faults of a record's header and lines, whatever its model."""

from __future__ import annotations

import re
from typing import NamedTuple

from seqembed.fasta.characters import INVISIBLE, name_letter
from seqembed.fasta.records import BLANKS, GAPS, MAX_ID_BYTES, Record, cut_header, decode_header

# Bytes that text may hold.
_TEXT = bytes(byte for byte in range(32, 256) if byte != 127)
# Several before a line feed: a line end that was converted twice.
_LONE_RETURN = re.compile(rb"\r(?![\r\n]|\Z)")
_LONE_RETURN_ADVICE = (
    "a carriage return within a line, as old Macintosh files have it; convert the line ends to LF "
    "or CRLF"
)


class Fault(NamedTuple):
    """What is wrong with a record.

    line: counted from its header, 0. record: its id for the message; None if the header has none.
    """

    message: str
    line: int = 0
    record: str | None = None


def find_fault(raw: bytes, record: Record, *, without_gaps: bool) -> Fault | None:
    """Return the first fault of a record; raw: its text, header included."""
    header, _, body = raw.partition(b"\n")
    if _LONE_RETURN.search(header):
        return Fault(_LONE_RETURN_ADVICE)
    if fault := _find_header_fault(header[1:]):
        return fault
    if found := _find_line_fault(raw, body.translate(None, BLANKS)):
        message, place = found
        return Fault(message, raw.count(b"\n", 0, place), record.sequence_id)
    if record.residues:
        return None
    gaps = without_gaps and any(gap in body for gap in GAPS)
    what = "has only gaps, which `gaps: remove` takes out" if gaps else "has no residues"
    return Fault(f"{what}; remove the record or add its sequence", 0, record.sequence_id)


def _find_header_fault(header: bytes) -> Fault | None:
    """Return why a header, without its `>`, has no valid id."""
    if b"\0" in header:
        return Fault("the header holds a NUL byte; remove it")
    sequence_id = cut_header(decode_header(header).strip(" \t\r\v\f"))[0]
    try:
        header.decode()
    except UnicodeDecodeError as error:
        # Nothing depends on a description, which may be Latin-1; an id must be exact.
        if not sequence_id.isascii():
            place = error.start + 2
            return Fault(f"the id is not UTF-8 (byte {place}); convert the file to UTF-8")
    if not sequence_id or header[:1] in (b" ", b"\t"):
        return Fault("the header has no id; write `>id description`, with no blank after `>`")
    if (size := len(sequence_id.encode())) > MAX_ID_BYTES:
        message = f"the id has {size:,} bytes; shorten it to at most {MAX_ID_BYTES:,}"
        return Fault(message, 0, sequence_id[:40] + "...")
    if found := INVISIBLE.search(sequence_id):
        message = f"the id holds {name_letter(found[0])}, which cannot be seen; remove it"
        return Fault(message, 0, sequence_id)
    return None


def _find_line_fault(raw: bytes, residues: bytes) -> tuple[str, int] | None:
    """Return a message on what is never part of a sequence, and its place in `raw`.

    residues: the record without header and blanks.
    """
    begin = raw.find(b"\n")
    if found := _LONE_RETURN.search(raw):
        return _LONE_RETURN_ADVICE, found.start()
    if b">" in residues:
        message = (
            "`>` within a line of the sequence; a header begins a line of its own: put a line "
        )
        return message + "break in front of it, or remove it", raw.index(b">", begin)
    if others := residues.translate(None, _TEXT):
        message = f"byte 0x{others[0]:02x} in the sequence, which is not text; is the file binary, "
        return message + "or damaged? Copy it again", raw.index(others[:1], begin)
    if (place := raw.find(b"\n;")) >= 0:
        return "a line that begins with `;`; remove comments from the file", place + 1
    return None
