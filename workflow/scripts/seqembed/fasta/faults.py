"""Explain what is not FASTA: files of other formats, and faulty headers and lines of records."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple, NoReturn

from seqembed.errors import FastaError
from seqembed.fasta.compression import compression_of
from seqembed.fasta.records import BLANKS, GAPS, MAX_ID_BYTES, Record

# How files of other formats begin, and the message for a file that begins so.
_BEGINNINGS = {
    rb"\xff\xfe|\xfe\xff": "is UTF-16; save the file as UTF-8",
    rb"PK\x03\x04": "is a zip archive; unpack it, and give the FASTA file in it",
    rb"\x1f[\x9d\xa0]": "is compressed with compress (.Z); unpack it, or compress it with gzip",
    rb"7z\xbc\xaf\x27\x1c|Rar!": "is an archive; unpack it, or compress the FASTA file with gzip",
    rb".{257}ustar": "is a tar archive; unpack it, and name the FASTA files in it",
    rb"\x89HDF|PAR1|SQLite format": "is a binary file of another program; export it as FASTA",
    rb"@": "looks like FASTQ; convert the file to FASTA",
    rb"\s*<": "looks like HTML or XML, as a failed download leaves it; download the file again",
    rb"\{\\rtf": "is a document of a word processor (RTF); save it as plain text",
    rb"\s*[{\[]": "looks like JSON; export it as FASTA",
    rb"LOCUS |ID   ": "looks like a record of GenBank, EMBL or UniProt; convert the file to FASTA",
    rb"CLUSTAL|MUSCLE|# STOCKHOLM|#NEXUS|PileUp|!!.A_MULTIPLE|\s*[0-9]+ +[0-9]+\s*\n": (
        "looks like an alignment of another format; convert the file to FASTA"
    ),
    rb"HEADER  |ATOM  |data_|MODEL  ": "looks like a structure file; give its sequences as FASTA",
    rb"##gff": "looks like GFF; give the sequences that it annotates as FASTA",
    rb"version https://git-lfs": "is a pointer of git-lfs, not the file; run `git lfs pull`",
}
_OTHER = "text before the first header; remove the text, so that the file begins with `>`"
# Characters that cannot be seen: two ids that look alike may differ in one of them.
_INVISIBLE = re.compile("[\u00ad\u034f\u180e\u200b-\u200f\u2060-\u2064\ufeff]")
# Bytes that text may hold.
_TEXT = bytes(byte for byte in range(32, 256) if byte != 127)
# A carriage return within a line. Several before a line feed are allowed: a program may have
# converted the line ends twice.
_LONE_RETURN = re.compile(rb"\r(?![\r\n]|\Z)")
_LONE_RETURN_ADVICE = (
    "a carriage return within a line, as old Macintosh files have it; convert the line ends to LF "
    "or CRLF"
)


class Fault(NamedTuple):
    """A fault of a record.

    line: the number of the faulty line, where the header is line 0. record: the id, or its
    beginning, to show in the message; None if the record has no valid id.
    """

    message: str
    line: int = 0
    record: str | None = None


def refuse_preamble(text: bytes, path: str | Path, line: int) -> NoReturn:
    """Raise FastaError for text before the first header, naming its format if that is known.

    line: the number, from 1, of the text's first line in the file.
    """
    if compression_of(text):
        raise FastaError("is compressed twice; unpack it once", path=path, line=line)
    found = (what for begin, what in _BEGINNINGS.items() if re.match(begin, text, re.DOTALL))
    raise FastaError(next(found, _OTHER), path=path, line=line)


def find_fault(raw: bytes, record: Record, *, without_gaps: bool) -> Fault | None:
    """Return the first fault of a record; None if the record is valid.

    raw: the text of the record in the file, with its header. without_gaps: whether `-` and `.` were
    dropped from the residues.
    """
    header, _, body = raw.partition(b"\n")
    if fault := _find_header_fault(header[1:], record.sequence_id):
        return fault
    if found := _find_line_fault(raw, body.translate(None, BLANKS)):
        message, place = found
        return Fault(message, raw.count(b"\n", 0, place), record.sequence_id)
    if record.residues:
        return None
    gaps = without_gaps and any(gap in body for gap in GAPS)
    what = "has only gaps, which `gaps: remove` takes out" if gaps else "has no residues"
    return Fault(f"{what}; remove the record or add its sequence", record=record.sequence_id)


def _find_header_fault(header: bytes, sequence_id: str) -> Fault | None:
    """Return the first fault of a header, given without its `>`; None if the header is valid."""
    if _LONE_RETURN.search(header):
        return Fault(_LONE_RETURN_ADVICE)
    if b"\0" in header:
        return Fault("the header holds a NUL byte; remove it")
    try:
        header.decode()
    except UnicodeDecodeError as error:
        # A description may be Latin-1, because nothing depends on it. An id must be exact.
        if not sequence_id.isascii():
            place = error.start + 2
            return Fault(f"the id is not UTF-8 (byte {place} of the line); save the file as UTF-8")
    if not sequence_id or header[:1] in (b" ", b"\t"):
        return Fault("the header has no id; write `>id description`, with no blank after `>`")
    if (size := len(sequence_id.encode())) > MAX_ID_BYTES:
        message = f"the id has {size:,} bytes; shorten it to at most {MAX_ID_BYTES:,}"
        return Fault(message, record=sequence_id[:40] + "...")
    if found := _INVISIBLE.search(sequence_id):
        message = f"the id holds {name_character(found[0])}, which cannot be seen; remove it"
        return Fault(message, record=sequence_id)
    return None


def _find_line_fault(raw: bytes, residues: bytes) -> tuple[str, int] | None:
    """Return a message on the first fault in a record's lines, and the fault's offset in `raw`.

    None: all lines are valid. raw: the whole record. residues: raw without its header and blanks.
    """
    begin = raw.find(b"\n")
    if found := _LONE_RETURN.search(raw):
        return _LONE_RETURN_ADVICE, found.start()
    if b">" in residues:
        message = "`>` within a line of the sequence; put a line break before it if it begins a"
        return f"{message} header, else remove the `>`", raw.index(b">", begin)
    if others := residues.translate(None, _TEXT):
        message = f"byte 0x{others[0]:02x} in the sequence, which is not text: the file is damaged"
        return f"{message} or binary; copy it again", raw.index(others[:1], begin)
    if (place := raw.find(b"\n;")) >= 0:
        return "a line that begins with `;`; remove comments from the file", place + 1
    return None


def name_character(letter: str) -> str:
    """Return the name of a character for a message: 'J', U+200B ZERO WIDTH SPACE or byte 0xff.

    letter: decoded with errors="surrogateescape"; a byte that is not UTF-8 is named by its value.
    """
    if letter.isascii():
        return repr(letter)
    if "\udc80" <= letter <= "\udcff":
        return f"byte 0x{ord(letter) - 0xDC00:02x}"
    return f"U+{ord(letter):04X} {unicodedata.name(letter, 'without a name')}"
