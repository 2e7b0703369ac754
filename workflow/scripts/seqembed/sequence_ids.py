"""The ids of sequences: how they are made, and that each is used once."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from pathlib import Path
from typing import Literal, get_args

from seqembed.errors import FastaError
from seqembed.fasta import MAX_ID_BYTES, Record, digest

IdStyle = Literal["header", "file:header"]


class SequenceIds:
    """Names the records of files, and knows where each id was first seen.

    Takes about 200 bytes an id, whatever its length. Raises ValueError for an unknown style.
    """

    def __init__(self, style: IdStyle) -> None:
        if style not in get_args(IdStyle):
            raise ValueError(f"ids must be 'header' or 'file:header', not {style!r}")
        self._style = style
        self._rows: dict[bytes, int] = {}
        self._lines = array("q")
        self._files: list[Path] = []
        self._first_rows: list[int] = []

    def begin(self, path: Path) -> None:
        """Say of which file the next records are."""
        self._files.append(path)
        self._first_rows.append(len(self._lines))

    def name(self, record: Record) -> str:
        """A record's id; raises FastaError, naming both places, when it was used before."""
        sequence_id = self._make(record)
        row = self._rows.setdefault(digest(sequence_id.encode()), len(self._lines))
        if row != len(self._lines):
            path, message = self._files[-1], self._explain(row)
            raise FastaError(message, path=path, record=sequence_id, line=record.line)
        self._lines.append(record.line)
        return sequence_id

    def _explain(self, row: int) -> str:
        """Say where the id of this row was first used, and what helps."""
        first = self._files[bisect_right(self._first_rows, row) - 1]
        message = f"this id was already used in {first}, line {self._lines[row]}; rename one"
        if first == self._files[-1]:
            return message
        if self._style == "header":
            return f"{message}, or set `ids: file:header`"
        return f"{message} of the records, or of the files"

    def _make(self, record: Record) -> str:
        if self._style == "header":
            return record.sequence_id
        path = self._files[-1]
        sequence_id = f"{path.name}:{record.sequence_id}"
        if len(sequence_id.encode()) > MAX_ID_BYTES:
            message = f"`file:header` makes an id over {MAX_ID_BYTES:,} bytes; shorten either"
            raise FastaError(message, path=path, record=record.sequence_id[:40], line=record.line)
        return sequence_id
