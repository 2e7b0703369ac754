"""What makes a record none, whatever a model knows: of its header, and of its lines."""

from __future__ import annotations

import re
from typing import NamedTuple

from seqembed.fasta.characters import INVISIBLE, name_letter
from seqembed.fasta.records import BLANKS, GAPS, MAX_ID_BYTES, Record, cut_header, decode_header

# Other bytes are never text.
_TEXT = bytes(byte for byte in range(32, 256) if byte != 127)
# Several before a line feed are a line end that was converted twice.
_LONE_RETURN = re.compile(rb"\r(?![\r\n]|\Z)")
_LONE_RETURN_ADVICE = (
    "a carriage return within a line, as old Macintosh files have it; convert the line ends to LF "
    "or CRLF"
)
_INNER_HEADER_ADVICE = (
    "`>` within a line of the sequence; a header begins a line of its own: put a line break in "
    "front of it, or remove it"
)


class Fault(NamedTuple):
    """What is wrong with a record.

    line: counted from its header's, 0. record: its id, as it is to be shown; None where the header
    has none.
    """

    message: str
    line: int = 0
    record: str | None = None


def find_fault(raw: bytes, record: Record, *, without_gaps: bool) -> Fault | None:
    """The first thing that makes this text no record."""
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
    what = "has gaps alone, which `gaps: remove` takes out" if gaps else "has no residues"
    return Fault(f"{what}; remove the record or add its sequence", 0, record.sequence_id)


def _find_header_fault(header: bytes) -> Fault | None:
    """Why a header, without its `>`, gives no id."""
    if b"\0" in header:
        return Fault("the header holds a NUL byte; remove it")
    sequence_id = cut_header(decode_header(header).strip(" \t\r\v\f"))[0]
    # A description may be Latin-1, as nothing depends on it; an id has to be what its user means.
    if not sequence_id.isascii() and (place := _find_no_utf8(header)) is not None:
        return Fault(f"the id is not UTF-8 (byte {place + 2}); convert the file to UTF-8")
    if not sequence_id or header[:1] in (b" ", b"\t"):
        return Fault("the header has no id; write `>id description`, with no blank after `>`")
    if (size := len(sequence_id.encode())) > MAX_ID_BYTES:
        message = f"the id has {size:,} bytes; shorten it to at most {MAX_ID_BYTES:,}"
        return Fault(message, 0, sequence_id[:40] + "...")
    if found := INVISIBLE.search(sequence_id):
        message = f"the id holds {name_letter(found[0])}, which nobody sees; remove it"
        return Fault(message, 0, sequence_id)
    return None


def _find_no_utf8(text: bytes) -> int | None:
    """The place of the first byte that is not UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def _find_line_fault(raw: bytes, residues: bytes) -> tuple[str, int] | None:
    """What of a record is never part of a sequence, and its place in `raw`.

    residues: the record without header and blanks.
    """
    begin = raw.find(b"\n")
    if found := _LONE_RETURN.search(raw):
        return _LONE_RETURN_ADVICE, found.start()
    if b">" in residues:
        return _INNER_HEADER_ADVICE, raw.index(b">", begin)
    if others := residues.translate(None, _TEXT):
        message = f"byte 0x{others[0]:02x} in the sequence, which is no text; is the file binary, "
        return message + "or damaged? Copy it again", raw.index(others[:1], begin)
    if (place := raw.find(b"\n;")) >= 0:
        return "a line that begins with `;`; remove comments from the file", place + 1
    return None
