"""FASTA, plain or gzip, of any molecule, read in one streaming pass.

Records are read many at a time where nothing is odd about them (`parse_clean`), and else one by
one, to the same result or to the error that names the place. All work on residues is done by
`bytes` operations, so that the time is linear in the size of the file and the memory is that of the
largest record.
"""

from __future__ import annotations

import errno
import glob
import gzip
import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from seqembed.errors import FastaError
from seqembed.paths import expand, explain_no_path
from seqembed.records import MAX_ID_BYTES, Record, Records, parse_clean

CHUNK_BYTES = 1 << 18

_BLANKS = b" \t\r\n\v\f"
_UPPER = bytes(range(256)).upper()
# Other bytes are never a residue, whatever a model knows.
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
_ODD_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

# What other files than FASTA begin with.
_PREAMBLES = {
    b"\xef\xbb\xbf": "begins with a byte-order mark; save the file as UTF-8 without one",
    b"\xff\xfe": "is UTF-16; save the file as UTF-8",
    b"\xfe\xff": "is UTF-16; save the file as UTF-8",
    b"@": "looks like FASTQ; convert the file to FASTA",
    b"BZh": "is compressed with bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ": "is compressed with xz; unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it, or compress it with gzip",
    b"PK\x03\x04": "is a zip archive; unpack it, or compress it with gzip",
}
# bgzip writes its size into each block, and this empty one at the end of the file.
_BGZIP_BLOCK = re.compile(rb"\x1f\x8b\x08\x04.{6}\x06\0BC\x02\0", re.DOTALL)
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def digest(residues: bytes) -> bytes:
    """Return the 16 bytes that stand for these residues (blake2b)."""
    return hashlib.blake2b(residues, digest_size=16).digest()


def find_fasta_files(patterns: str | list[str]) -> list[Path]:
    """Return the files of each pattern, sorted within a pattern, each file once.

    `~` and variables are filled in. Folders that a pattern matches are passed over. Raises
    FastaError for a pattern that matches no file, and for whatever it matches that cannot be read
    twice.
    """
    found: dict[str, Path] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if reason := explain_no_path(pattern):
            raise FastaError(reason, path=_shown(pattern))
        for path in _matches(expand(pattern)):
            _refuse_irregular(path)
            found.setdefault(os.path.realpath(path), Path(path))
    if not found:
        raise FastaError("no FASTA file was named; name at least one", path="(no pattern)")
    return list(found.values())


def _matches(pattern: str) -> list[str]:
    # A name that exists is taken as it is: brackets are allowed in file names.
    if os.path.lexists(pattern) or not (glob.has_magic(pattern) or "\0" in pattern):
        return [pattern]
    paths = glob.glob(pattern, recursive=True)
    files = sorted(path for path in paths if not os.path.isdir(path))
    if not files:
        what = "matches folders alone; name the files in them" if paths else "matches no file"
        message = f"{what}; correct the path or the pattern"
        raise FastaError(message, path=_shown(pattern))
    return files


def _refuse_irregular(path: str) -> None:
    """Raise FastaError unless this is a file, which index and split can both read."""
    if _ODD_IN_NAMES.search(path):
        message = "the name holds control characters, or is not UTF-8; rename the file or folder"
        raise FastaError(message, path=_shown(path))
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise FastaError(_explain_unreachable(path, error), path=path) from error
    if stat.S_ISDIR(mode):
        message = f"is a folder; name its files, such as {os.path.join(path, '*.fasta')}"
        raise FastaError(message, path=path)
    if not stat.S_ISREG(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "device or a socket"
        message = f"is a {kind}, and sequences are read twice; write them to a file first"
        raise FastaError(message, path=path)


def _explain_unreachable(path: str, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "is a symbolic link that leads back to itself; link it to a file"
    if error.errno == errno.ENOENT and os.path.islink(path):
        return f"is a symbolic link to {os.readlink(path)}, which is not there; bring it back"
    if error.errno == errno.ENOENT:
        return "matches no file; correct the path or the pattern"
    return f"cannot be read ({error.strerror}); check the path and its permissions"


def _shown(path: str) -> str:
    """The path on one line, such as a log can hold."""
    return _ODD_IN_NAMES.sub(lambda found: ascii(found[0])[1:-1], path)


def read_records(path: str | Path, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Record]:
    """Yield the records of a FASTA file in order; raises FastaError as read_batches does."""
    for records in read_batches(path, chunk_bytes=chunk_bytes):
        yield from records


def read_batches(path: str | Path, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Records]:
    """Yield the records of a FASTA file in order, one or more at a time.

    Raises FastaError, with the record and the line, for whatever is no FASTA, when all records
    before it were yielded.
    """
    line, offset, seen = 1, 0, False
    for block in _blocks(_chunks(path, chunk_bytes)):
        clean = parse_clean(block, line, offset)
        for records in [clean] if clean else _parse_closely(block, path, line, offset):
            seen = True
            yield records
        line, offset = line + block.count(b"\n"), offset + len(block)
    if not seen:
        raise FastaError("holds no record; give a FASTA file with at least one", path=path)


def _chunks(path: str | Path, chunk_bytes: int) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in chunks."""
    with _readable(path), open(path, "rb") as plain:
        compressed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        if compressed:
            _refuse_cut_bgzip(plain, path)
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=plain)) if compressed else plain
        while chunk := stream.read(chunk_bytes):
            yield chunk


def _refuse_cut_bgzip(plain: IO[bytes], path: str | Path) -> None:
    """Raise FastaError for a file of bgzip that was cut between two blocks, which gzip accepts."""
    if _BGZIP_BLOCK.match(plain.read(16)):
        plain.seek(-min(len(_BGZIP_END), os.fstat(plain.fileno()).st_size), os.SEEK_END)
        if plain.read() != _BGZIP_END:
            message = "lacks the end that bgzip writes, so it is truncated; copy it again, or"
            raise FastaError(f"{message} compress it anew if it is complete", path=path)
    plain.seek(0)


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Turn the errors of reading and of gzip into FastaError."""
    try:
        yield
    except EOFError as error:
        raise FastaError("the gzip file is truncated; copy it again", path=path) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        message = f"the gzip file is corrupt ({error}); copy it again"
        raise FastaError(message, path=path) from error
    except OSError as error:
        message = f"cannot be read ({error.strerror or error}); check the path and its permissions"
        raise FastaError(message, path=path) from error


def _blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut a file before the last `>` of each chunk that begins a line; none is empty."""
    parts: list[bytes] = []
    last = b"\n"
    for chunk in chunks:
        cut = chunk.rfind(b"\n>") + 1
        # The line break may have ended the last chunk.
        if cut or (last == b"\n" and chunk[:1] == b">"):
            parts.append(chunk[:cut])
            if block := b"".join(parts):
                yield block
            parts = []
        parts.append(chunk[cut:])
        last = chunk[-1:]
    if block := b"".join(parts):
        yield block


def _parse_closely(block: bytes, path: str | Path, line: int, offset: int) -> Iterator[Records]:
    """Yield the records of a block that begins at this line and offset; raises FastaError.

    What precedes the first record may only be blank.
    """
    found: list[Record] = []
    try:
        for raw in _cut_records(block):
            if raw[:1] == b">":
                found.append(_parse(raw, path, line, offset))
            elif raw.strip():
                _refuse_preamble(raw, path, line)
            line, offset = line + raw.count(b"\n"), offset + len(raw)
    finally:
        # Those before a fault may have one of another kind, which comes first.
        if found:
            yield Records.of(found)


def _cut_records(block: bytes) -> Iterator[bytes]:
    """Cut a block before each `>` that begins a line; the first part may lack one."""
    begin = 0
    while cut := block.find(b"\n>", begin) + 1:
        yield block[begin:cut]
        begin = cut
    yield block[begin:]


def _parse(raw: bytes, path: str | Path, line: int, offset: int) -> Record:
    header, _, body = raw.partition(b"\n")
    if _find_lone_return(header) >= 0:
        raise FastaError(_LONE_RETURN_ADVICE, path=path, line=line)
    sequence_id, description = _parse_header(header[1:], path, line)
    residues = body.translate(_UPPER, _BLANKS)
    if fault := _find_fault(raw, residues):
        line += raw.count(b"\n", 0, fault[1])
        raise FastaError(fault[0], path=path, record=sequence_id, line=line)
    return Record(sequence_id, description, residues.removesuffix(b"*"), line, offset)


def _find_lone_return(text: bytes) -> int:
    """Where a carriage return stands within a line; -1 where none does."""
    # Most files have none, and are searched for a byte much faster.
    found = _LONE_RETURN.search(text) if b"\r" in text else None
    return found.start() if found else -1


def _find_fault(raw: bytes, residues: bytes) -> tuple[str, int] | None:
    """What of a record is never a residue, or that it has none; and where in `raw` this is.

    residues: the record without header and blanks.
    """
    begin = raw.find(b"\n")
    if (place := _find_lone_return(raw)) >= 0:
        return _LONE_RETURN_ADVICE, place
    if b">" in residues:
        return _INNER_HEADER_ADVICE, raw.index(b">", begin)
    if others := residues.translate(None, _TEXT):
        message = f"byte 0x{others[0]:02x} in the sequence, which is no text; is the file binary, "
        return message + "or damaged? Copy it again", raw.index(others[:1], begin)
    if (place := raw.find(b"\n;")) >= 0:
        return "a line that begins with `;`; remove comments from the file", place + 1
    if residues in (b"", b"*"):
        return "has no residues; remove the record or add its sequence", 0
    return None


def _parse_header(header: bytes, path: str | Path, line: int) -> tuple[str, str]:
    """Return (id, description) of a header without its `>`."""
    if b"\0" in header:
        raise FastaError("the header holds a NUL byte; remove it", path=path, line=line)
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the header is not UTF-8 (byte {error.start + 2}); convert the file to UTF-8"
        raise FastaError(message, path=path, line=line) from error
    text = text.strip(" \t\r\v\f")
    sequence_id = text.replace("\t", " ").partition(" ")[0]
    if not sequence_id or header[:1] in (b" ", b"\t"):
        message = "the header has no id; write `>id description`, with no blank after `>`"
        raise FastaError(message, path=path, line=line)
    if (size := len(sequence_id.encode())) > MAX_ID_BYTES:
        message = f"the id has {size:,} bytes; shorten it to at most {MAX_ID_BYTES:,}"
        raise FastaError(message, path=path, record=sequence_id[:40] + "...", line=line)
    return sequence_id, text[len(sequence_id) :].strip(" \t")


def _refuse_preamble(raw: bytes, path: str | Path, line: int) -> None:
    """Raise FastaError for text before the first header."""
    message = "text before the first header; a FASTA file begins with `>`, remove what precedes it"
    for begin, explanation in _PREAMBLES.items():
        if raw.startswith(begin):
            message = explanation
    line += raw[: len(raw) - len(raw.lstrip())].count(b"\n")
    raise FastaError(message, path=path, line=line)
