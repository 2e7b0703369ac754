"""Read FASTA files, plain or compressed, in one streaming pass.

Residues are handled by operations on many bytes at once, so that time is linear in the size of the
file. Memory is that of the largest record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from seqembed.errors import FastaError
from seqembed.fasta.compression import read_chunks
from seqembed.fasta.faults import find_fault, refuse_preamble
from seqembed.fasta.records import BLANKS, Records, parse

CHUNK_BYTES = 1 << 18
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# Consecutive lines that begin with `;`. Possessive: no line is looked at twice, however many.
_COMMENTS = re.compile(rb"(?m)^;.*+(?:\n;.*+)*+")


def read_batches(
    path: str | Path, *, without_gaps: bool = False, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Records]:
    """Yield the records of a FASTA file in order, one or more at a time.

    without_gaps: drop `-` and `.` from sequences. Raises FastaError, with record and line, for the
    first place that is not FASTA, after the records before that place were yielded.
    """
    line, offset, seen = 1, 0, False
    for block in _blocks(read_chunks(path, chunk_bytes)):
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
    """Yield blocks of whole records, none empty, each cut at the last header of a chunk."""
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


def _find_first_header(block: bytes, path: str | Path, line: int) -> int:
    """Return where the first header of a block begins, or the block's length if none does.

    line: the number of the block's first line. Raises FastaError for text before the header,
    except for a byte-order mark and comments.
    """
    top = len(BYTE_ORDER_MARK) if line == 1 and block.startswith(BYTE_ORDER_MARK) else 0
    begin = top if block.startswith(b">", top) else (block.find(b"\n>", top) + 1) or len(block)
    text = _COMMENTS.sub(_blank, block[top:begin])
    if rest := text.lstrip(BLANKS):
        refuse_preamble(rest, path, line + text.count(b"\n", 0, len(text) - len(rest)))
    return begin


def _blank_comments(block: bytes) -> bytes:
    """Replace comments by blanks, so that all offsets stay as they are.

    The first FASTA programs wrote comments below a header or above the next header. Between
    residues, a line with `;` stays: the line may begin a record of an older format.
    """
    # Most blocks have no comment, and a search for one byte is much faster.
    if b";" not in block or b"\n;" not in block:
        return block
    return _COMMENTS.sub(lambda run: _blank(run) if _is_comment(run) else run[0], block)


def _is_comment(run: re.Match[bytes]) -> bool:
    """Whether lines with `;` are below a header, above one, or at the end of the block."""
    block, begin = run.string, run.start()
    above = block.rfind(b"\n", 0, max(0, begin - 1)) + 1
    below = block[run.end() : run.end() + 2]
    return block[above : above + 1] == b">" or below in (b"\n>", b"\n", b"")


def _blank(run: re.Match[bytes]) -> bytes:
    return re.sub(rb"[^\n]", b" ", run[0])


def _refuse_faults(records: Records, path: str | Path, without_gaps: bool) -> Iterator[Records]:
    """Yield the records; raise FastaError for the first faulty record after those before it."""
    for number in records.odd:
        if fault := find_fault(records.raw(number), records[number], without_gaps=without_gaps):
            # The caller may find a fault in the records before this one, and that comes first.
            if before := records.block[: records.begins[number]]:
                first, offset = records.lines[0], records.byte_offsets[0]
                yield parse(before, first, offset, without_gaps=without_gaps)
            line = records.lines[number] + fault.line
            raise FastaError(fault.message, path=path, record=fault.record, line=line)
    yield records
