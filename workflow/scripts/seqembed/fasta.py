"""FASTA, plain or gzip, of any molecule, read in one streaming pass.

All work on residues is done by whole-record `bytes` operations, so that the time is linear in the
size of the file and the memory is that of the largest record.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from seqembed.errors import FastaError

MAX_ID_BYTES = 1024
CHUNK_BYTES = 1 << 20

_BLANKS = b" \t\r\n\v\f"
_UPPER = bytes(range(256)).upper()


@dataclass(frozen=True, slots=True)
class Record:
    """A record; `line` (from 1) and `byte_offset` (from 0, decompressed) are its header's.

    residues: upper case, without blanks and one `*` at the end; whether they are residues at all
    is not looked at.
    """

    sequence_id: str
    description: str
    residues: bytes
    line: int
    byte_offset: int


def digest(residues: bytes) -> bytes:
    """Return the 16 bytes that stand for these residues (blake2b)."""
    return hashlib.blake2b(residues, digest_size=16).digest()


def find_fasta_files(patterns: str | list[str]) -> list[Path]:
    """Return the files of each pattern, sorted within a pattern, each file once.

    Raises FastaError for a pattern that matches no file.
    """
    found: dict[str, Path] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for path in _matches(pattern):
            found.setdefault(os.path.realpath(path), Path(path))
    if not found:
        raise FastaError("no FASTA file was named; name at least one", path="(no pattern)")
    return list(found.values())


def _matches(pattern: str) -> list[str]:
    # A name that exists is taken as it is: brackets are allowed in file names.
    if os.path.isfile(pattern):
        return [pattern]
    paths = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not paths:
        raise FastaError("matches no file; correct the path or the pattern", path=pattern)
    return paths


def read_records(path: str | Path, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Record]:
    """Yield the records of a FASTA file in order.

    Raises FastaError, with the record and the line, for whatever is no FASTA.
    """
    line, seen = 1, False
    for offset, raw in _raw_records(_chunks(path, chunk_bytes)):
        if raw[:1] == b">":
            seen = True
            yield _parse(raw, path, line, offset)
        elif raw.strip():
            _refuse_preamble(raw, path, line)
        line += raw.count(b"\n")
    if not seen:
        raise FastaError("holds no record; give a FASTA file with at least one", path=path)


def _chunks(path: str | Path, chunk_bytes: int) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in chunks."""
    with _readable(path), open(path, "rb") as plain:
        compressed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=plain)) if compressed else plain
        while chunk := stream.read(chunk_bytes):
            yield chunk


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


def _raw_records(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) cut before each `>` that begins a line; the first may lack one."""
    parts: list[bytes] = []
    offset, last = 0, b"\n"
    for chunk in chunks:
        begin = 0
        # A search for "\n>" starts one byte early, at the line break that ended the last chunk.
        cut = 0 if last == b"\n" and chunk[:1] == b">" else chunk.find(b"\n>") + 1 or -1
        while cut >= 0:
            parts.append(chunk[begin:cut])
            raw = b"".join(parts)
            if raw:
                yield offset, raw
            offset, begin, parts = offset + len(raw), cut, []
            cut = chunk.find(b"\n>", begin) + 1 or -1
        parts.append(chunk[begin:])
        last = chunk[-1:]
    if raw := b"".join(parts):
        yield offset, raw


def _parse(raw: bytes, path: str | Path, line: int, offset: int) -> Record:
    header, _, body = raw.partition(b"\n")
    sequence_id, description = _parse_header(header[1:], path, line)
    residues = body.translate(_UPPER, _BLANKS).removesuffix(b"*")
    if not residues:
        message = "has no residues; remove the record or add its sequence"
        raise FastaError(message, path=path, record=sequence_id, line=line)
    return Record(sequence_id, description, residues, line, offset)


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
    line += raw[: len(raw) - len(raw.lstrip())].count(b"\n")
    message = "text before the first header; a FASTA file begins with `>`, remove what precedes it"
    if raw.startswith(b"\xef\xbb\xbf"):
        message = "begins with a byte-order mark; save the file as UTF-8 without one"
    raise FastaError(message, path=path, line=line)
