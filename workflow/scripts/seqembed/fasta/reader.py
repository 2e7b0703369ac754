"""Read FASTA files, plain or compressed, a block of records at a time.

Time is linear in the size of a file. Memory grows with the largest record, not with the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from seqembed.errors import FastaError
from seqembed.fasta.compression import read_chunks
from seqembed.fasta.faults import find_fault, refuse_preamble
from seqembed.fasta.records import BLANKS, Records, parse

CHUNK_BYTES = 1 << 18
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# Consecutive lines that begin with `;`. Possessive quantifiers keep the search linear in time.
_COMMENTS = re.compile(rb"(?m)^;.*+(?:\n;.*+)*+")


def read_batches(
    path: str | Path,
    *,
    without_gaps: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    tell: Callable[[int], None] = lambda position: None,
) -> Iterator[Records]:
    """Yield the records of a FASTA file in order, one or more at a time.

    without_gaps: drop `-` and `.` from sequences. chunk_bytes: how many bytes to read at a time.
    tell: called with the position in the file, in bytes, after some are read. Raises FastaError,
    with record and line, for the first fault, after all records before the fault were yielded; also
    if the file cannot be read or holds no record.
    """
    line, offset, seen = 1, 0, False
    for block in _blocks(read_chunks(path, chunk_bytes, tell)):
        begin = 0 if seen else _find_first_header(block, path, line)
        if begin < len(block):
            seen = True
            first, text = line + block.count(b"\n", 0, begin), _blank_comments(block[begin:])
            records = parse(text, first, offset + begin, without_gaps=without_gaps)
            yield from _refuse_faults(records, path, without_gaps)
        line, offset = line + block.count(b"\n"), offset + len(block)
    if not seen:
        raise FastaError("holds no record; give a FASTA file with at least one", path=path)


def _blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield blocks of complete records, none empty; a chunk's last record begins the next block."""
    parts: list[bytes] = []
    last = b"\n"
    for chunk in chunks:
        cut = chunk.rfind(b"\n>") + 1
        # The line break before a header may be the last byte of the chunk before.
        if cut or (last == b"\n" and chunk[:1] == b">"):
            parts.append(chunk[:cut])
            if block := b"".join(parts):
                yield block
            parts = []
        parts.append(chunk[cut:])
        last = chunk[-1:]
    if block := b"".join(parts):
        yield block


def _find_first_header(block: bytes, path: str | Path, line: int) -> int:
    """Return the offset of a block's first header; the block's length if it has no header.

    line: the number of the block's first line, from 1. Before the header, a byte-order mark, blanks
    and comments are allowed. Raises FastaError for other text.
    """
    top = len(BYTE_ORDER_MARK) if line == 1 and block.startswith(BYTE_ORDER_MARK) else 0
    begin = top if block.startswith(b">", top) else (block.find(b"\n>", top) + 1) or len(block)
    text = _COMMENTS.sub(_blank, block[top:begin])
    if rest := text.lstrip(BLANKS):
        refuse_preamble(rest, path, line + text.count(b"\n", 0, len(text) - len(rest)))
    return begin


def _blank_comments(block: bytes) -> bytes:
    """Return a block whose comments are replaced by blanks, so that all offsets stay as they are.

    The first FASTA programs wrote comments below a header or above the next header. A line that
    begins with `;` between residues is kept, since it may be the header of an older format.
    """
    # Most blocks have no comment, and a search for one byte is much faster than one for two.
    if b";" not in block or b"\n;" not in block:
        return block
    return _COMMENTS.sub(lambda run: _blank(run) if _is_comment(run) else run[0], block)


def _is_comment(run: re.Match[bytes]) -> bool:
    """Whether lines that begin with `;` are comments: next to a header, or at a block's end."""
    block, begin = run.string, run.start()
    above = block.rfind(b"\n", 0, max(0, begin - 1)) + 1
    below = block[run.end() : run.end() + 2]
    return block[above : above + 1] == b">" or below in (b"\n>", b"\n", b"")


def _blank(run: re.Match[bytes]) -> bytes:
    return re.sub(rb"[^\n]", b" ", run[0])


def _refuse_faults(records: Records, path: str | Path, without_gaps: bool) -> Iterator[Records]:
    """Yield records; if one is faulty, yield those before it, then raise FastaError for it."""
    for number in records.odd:
        if fault := find_fault(records.raw(number), records[number], without_gaps=without_gaps):
            # The caller may find another fault in these records, which has to be reported first.
            if before := records.block[: records.begins[number]]:
                first, offset = records.lines[0], records.byte_offsets[0]
                yield parse(before, first, offset, without_gaps=without_gaps)
            line = records.lines[number] + fault.line
            raise FastaError(fault.message, path=path, record=fault.record, line=line)
    yield records
