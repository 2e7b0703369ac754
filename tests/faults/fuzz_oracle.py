"""What an index must hold of files, or what must be refused: an oracle that shares no code with it.

The format, as this reads it, line by line. A file is gzip (RFC 1952, any number of members, zeros
after the last) if it begins with 1f 8b; one of bgzip ends with bgzip's empty block. A byte-order
mark may begin the text. Lines end with LF; carriage returns may stand before it, and nowhere else
within a record. A line that begins with `>` is a header: UTF-8, or Latin-1 if the id is ASCII,
without NUL, an id of 1 to 1,024 bytes up to the first blank, a description. Lines below it are
residues: blanks and one `*` or lone `.` at the very end do not count; no `>`, no control
character. Lines that begin with `;` are comments, all in a row below a header, above one or at the
end, and nowhere else. Before the first header there are blanks and comments alone, each record has
a residue, each file a record, each id is used once. Letters are residues of a molecule, unknown to
the model or not; so may be gaps; nothing else is.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LETTERS = {"protein": b"ACDEFGHIKLMNPQRSTVWYBOUXZ.-", "DNA": b"ACGT"}
# What may be a residue, though the model does not know it.
POSSIBLE = {"protein": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ*-.", "DNA": b"ACGTURYSWKMBDHVNX*-."}
BLANKS = b" \t\r\n\v\f"
ID_ENDS = re.compile("[ \t\x01\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
INVISIBLE = re.compile("[\u00ad\u034f\u180e\u200b-\u200f\u2060-\u2064\ufeff]")
BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
MAX_ID_BYTES = 1024


@dataclass(frozen=True)
class Fault:
    """What is wrong in a file: its line, from 1, if it has one, and words of the message."""

    path: Path
    line: int | None
    words: str


@dataclass
class Row:
    """A record; `unknown` counts what its model does not know, `first` is such a place, from 1.

    gaps: how many; impossible: the line, from 1, of the first byte that is no residue.
    """

    sequence_id: str
    description: str
    path: Path
    line: int
    offset: int
    residues: bytes = b""
    unknown: int = 0
    first: int = 0
    gaps: int = 0
    impossible: int | None = None

    @property
    def digest(self) -> bytes:
        return hashlib.blake2b(self.residues, digest_size=16).digest()


@dataclass
class Truth:
    """Rows in input order, and the faults of the first file that has any."""

    rows: list[Row] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def gapped(self) -> list[Row]:
        return [row for row in self.rows if row.gaps]

    @property
    def unknown(self) -> list[Row]:
        return [row for row in self.rows if row.unknown]

    def refused_residues(self, asked: str) -> bool:
        """Whether `invalid_residues: asked` lets nothing of these rows pass."""
        if asked == "skip":
            return len(self.unknown) == len(self.rows)
        return asked == "error" and bool(self.unknown)


def read_truth(
    contents: Mapping[Path, bytes],
    style: str,
    molecule: str,
    asked: str,
    gaps: str,
    suspicious: str,
) -> Truth:
    """What the index of these files must hold, or be refused for.

    asked: `invalid_residues`.
    """
    truth, places = Truth(), {}
    for path, content in contents.items():
        rows = _read_file(path, content, molecule, gaps, truth.faults)
        for row in rows:
            _name(row, style, places, truth.faults)
            _count_unknown(row, molecule, gaps)
            if row.impossible and asked != "skip":
                truth.faults.append(
                    Fault(path, row.impossible, f"cannot be residues of {molecule}")
                )
        if suspicious == "error":
            truth.faults += _other_molecule(path, rows, molecule)
        truth.rows += rows
        if truth.faults:
            break
    return truth


def unpack(content: bytes) -> tuple[bytes, str | None]:
    """(the decompressed bytes, or their intact beginning; what is wrong with the gzip, if so)."""
    if content[:2] != b"\x1f\x8b":
        return content, None
    is_bgzip = content[:4] == b"\x1f\x8b\x08\x04" and content[10:16] == b"\x06\0BC\x02\0"
    if is_bgzip and content[-len(BGZIP_END) :] != BGZIP_END:
        return b"", "lacks the end that bgzip writes"
    plain, rest, whole = b"", content, True
    while rest and whole:
        part, rest, whole = _unpack_member(rest)
        plain += part
        rest = rest.lstrip(b"\0")
    return plain, None if whole else "gzip file is"


def _unpack_member(data: bytes) -> tuple[bytes, bytes, bool]:
    """(what a gzip member holds, the bytes after it, whether it is whole)."""
    begin = _header_end(data)
    if begin is None:
        return b"", b"", False
    stream, plain, place = zlib.decompressobj(-zlib.MAX_WBITS), b"", begin
    try:
        # Byte by byte, so that what precedes the damage is seen.
        while not stream.eof and place < len(data):
            plain += stream.decompress(data[place : place + 1])
            place += 1
    except zlib.error:
        return plain, b"", False
    trailer = data[place : place + 8]
    whole = stream.eof and trailer == struct.pack("<II", zlib.crc32(plain), len(plain))
    return plain, data[place + 8 :], whole


def _header_end(data: bytes) -> int | None:
    """Where the compressed bytes of a gzip member begin; None where it has no whole header."""
    if len(data) < 10 or data[:3] != b"\x1f\x8b\x08":
        return None
    flags, end = data[3], 10
    if flags & 4:
        end += 2 + int.from_bytes(data[end : end + 2], "little")
    for flag in (8, 16):
        if flags & flag:
            end = data.find(b"\0", end) + 1 or len(data)
    end += 2 * bool(flags & 2)
    return end if end <= len(data) else None


def _read_file(
    path: Path, content: bytes, molecule: str, gaps: str, faults: list[Fault]
) -> list[Row]:
    plain, damage = unpack(content)
    rows: list[Row] = []
    found = list(_read_lines(path, plain, molecule, rows))
    words = ("has no residues", "has only gaps")
    for row in rows:
        if not _finish(row, gaps):
            found.append(Fault(path, row.line, words[gaps == "remove" and row.gaps > 0]))
    if damage:
        found.append(Fault(path, None, damage))
    elif not rows and not found:
        found.append(Fault(path, None, "holds no record"))
    faults += found
    return rows


def _finish(row: Row, gaps: str) -> bool:
    """Take the end of the residues off, and gaps that are not wanted; whether any are left."""
    text = row.residues
    row.gaps = text.count(b"-") + text.count(b".")
    if gaps == "remove":
        text = text.replace(b"-", b"").replace(b".", b"")
    if text.endswith(b"*") or (text.endswith(b".") and text[-2:-1] not in (b".", b"-")):
        row.gaps -= text.endswith(b".")
        text = text[:-1]
    row.residues = text
    return bool(text)


def _read_lines(path: Path, plain: bytes, molecule: str, rows: list[Row]) -> Iterator[Fault]:
    """Append the records to `rows`; yield what is wrong in single lines."""
    mark = b"\xef\xbb\xbf"
    offset, began = 0, False
    lines = plain.split(b"\n")
    comments = _find_comments(lines, plain.startswith(mark))
    for number, text in enumerate(lines, 1):
        size = len(text) + 1
        if number == 1 and text.startswith(mark):
            text, offset, size = text[3:], 3, size - 3
        bare = text.rstrip(b"\r")
        if number in comments or (not began and text[:1] == b";"):
            offset += size
            continue
        if text[:1] == b">":
            row, words = _read_header(path, bare, number, offset)
            rows.append(row)
            began = True
        elif not began:
            words = "" if text.strip(BLANKS) else None
        else:
            words = _read_residues(bare, rows[-1])
            _note_impossible(bare, rows[-1], molecule, number)
        if began and b"\r" in bare:
            yield Fault(path, number, "a carriage return within a line")
        if words is not None:
            yield Fault(path, number, words)
            if not began:
                return
        offset += size


def _find_comments(lines: list[bytes], marked: bool) -> set[int]:
    """The numbers, from 1, of lines of comment within records."""
    kinds = [text[:1] for text in lines]
    if marked:
        kinds[0] = lines[0][3:4]
    last = len(lines) - (lines[-1] == b"")
    found: set[int] = set()
    begin = 0
    while begin < last:
        end = begin
        while end < last and kinds[end] == b";":
            end += 1
        above = begin > 0 and kinds[begin - 1] == b">"
        if end > begin and (above or end == last or kinds[end] == b">"):
            found.update(range(begin + 1, end + 1))
        begin = max(end, begin + 1)
    return found


def _note_impossible(text: bytes, row: Row, molecule: str, number: int) -> None:
    bare = bytes(byte for byte in text.upper() if byte not in BLANKS)
    if not row.impossible and bare.translate(None, POSSIBLE[molecule]):
        row.impossible = number


def _read_header(path: Path, text: bytes, number: int, offset: int) -> tuple[Row, str | None]:
    """The row that a header begins, and what is wrong with the header."""
    row = Row("", "", path, number, offset)
    if b"\0" in text:
        return row, "NUL"
    plain = _is_utf8(text)
    words = text[1:].decode("utf-8" if plain else "latin-1").strip(BLANKS.decode())
    end = ID_ENDS.search(words)
    row.sequence_id = words[: end.start()] if end else words
    row.description = words[end.end() :].strip(" \t") if end else ""
    if not plain and not row.sequence_id.isascii():
        return row, "the id is not UTF-8"
    if not row.sequence_id or text[1:2] in (b" ", b"\t"):
        return row, "no id"
    if len(row.sequence_id.encode()) > MAX_ID_BYTES:
        return row, "shorten it to at most 1,024"
    return row, "which cannot be seen" if INVISIBLE.search(row.sequence_id) else None


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_residues(text: bytes, row: Row) -> str | None:
    """Append a line's residues to the row; return what is wrong with the line."""
    row.residues += bytes(byte for byte in text if byte not in BLANKS).upper()
    if b">" in text:
        return "`>` within a line"
    if any(byte < 32 and byte not in BLANKS or byte == 127 for byte in text):
        return "which is not text"
    return "begins with `;`" if text[:1] == b";" else None


def _name(row: Row, style: str, places: dict[str, tuple[Path, int]], faults: list[Fault]) -> None:
    """Give the row the id it has in the index, and see that this is the first of that name."""
    if not row.sequence_id:
        return
    if style == "file:header":
        row.sequence_id = f"{row.path.name}:{row.sequence_id}"
        if len(row.sequence_id.encode()) > MAX_ID_BYTES:
            faults.append(Fault(row.path, row.line, "`ids: file:header` makes an id over 1,024"))
    path, line = places.setdefault(row.sequence_id, (row.path, row.line))
    if (path, line) != (row.path, row.line):
        words = f"this id was already used in {path}, line {line}; rename one"
        faults.append(Fault(row.path, row.line, words))


def _count_unknown(row: Row, molecule: str, gaps: str) -> None:
    """Count the characters that the model does not know; refused gaps are told apart."""
    letters = LETTERS[molecule] + (b"-." if gaps == "error" else b"")
    unknown = [n for n, byte in enumerate(row.residues, 1) if byte not in letters]
    others = bytes(row.residues[n - 1] for n in unknown)
    row.unknown = len(others.decode(errors="surrogateescape"))
    row.first = unknown[0] if unknown else 0


def _other_molecule(path: Path, rows: list[Row], molecule: str) -> list[Fault]:
    """A fault where 100 letters or more are nearly all nucleotides, or clearly amino acids."""
    letters = Counter(b"".join(row.residues for row in rows))
    total = letters.total()
    nucleotides, acids = (sum(letters[byte] for byte in of) for of in (b"ACGTUN", b"EFILPQ"))
    foreign = nucleotides >= 0.95 * total if molecule == "protein" else acids >= 0.1 * total
    return [Fault(path, None, "looks like")] if total >= 100 and foreign else []
