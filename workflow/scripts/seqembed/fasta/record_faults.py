"""What makes a record none, whatever a model knows: of its header, and of its lines."""

from __future__ import annotations

import re

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


class RecordFault(Exception):
    """What is wrong with a record.

    line: counted from its header's, 0. record: its id, as it is to be shown; None where the header
    has none.
    """

    def __init__(self, message: str, line: int, record: str | None) -> None:
        self.message, self.line, self.record = message, line, record
        super().__init__(message)


def check_record(raw: bytes, record: Record, *, without_gaps: bool) -> None:
    """Raise RecordFault for the first thing that makes this text no record."""
    header, _, body = raw.partition(b"\n")
    if _LONE_RETURN.search(header):
        raise RecordFault(_LONE_RETURN_ADVICE, 0, None)
    _check_header(header[1:])
    if fault := _find_fault(raw, body.translate(None, BLANKS)):
        raise RecordFault(fault[0], raw.count(b"\n", 0, fault[1]), record.sequence_id)
    if not record.residues:
        gaps = without_gaps and any(gap in body for gap in GAPS)
        what = "has gaps alone, which `gaps: remove` takes out" if gaps else "has no residues"
        advice = "remove the record or add its sequence"
        raise RecordFault(f"{what}; {advice}", 0, record.sequence_id)


def _check_header(header: bytes) -> None:
    """Raise RecordFault for a header, without its `>`, that gives no id."""
    if b"\0" in header:
        raise RecordFault("the header holds a NUL byte; remove it", 0, None)
    sequence_id = cut_header(decode_header(header).strip(" \t\r\v\f"))[0]
    try:
        header.decode()
    except UnicodeDecodeError as error:
        # Of a description in Latin-1 nothing depends; in an id, nobody knows what is meant.
        if not sequence_id.isascii():
            message = f"the id is not UTF-8 (byte {error.start + 2}); convert the file to UTF-8"
            raise RecordFault(message, 0, None) from error
    if not sequence_id or header[:1] in (b" ", b"\t"):
        message = "the header has no id; write `>id description`, with no blank after `>`"
        raise RecordFault(message, 0, None)
    if (size := len(sequence_id.encode())) > MAX_ID_BYTES:
        message = f"the id has {size:,} bytes; shorten it to at most {MAX_ID_BYTES:,}"
        raise RecordFault(message, 0, sequence_id[:40] + "...")
    if found := INVISIBLE.search(sequence_id):
        message = f"the id holds {name_letter(found[0])}, which nobody sees; remove it"
        raise RecordFault(message, 0, sequence_id)


def _find_fault(raw: bytes, residues: bytes) -> tuple[str, int] | None:
    """What of a record is never part of a sequence, and where in `raw` it is.

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
