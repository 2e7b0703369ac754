"""Make the ids of sequences from FASTA headers, and refuse an id that is used twice."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from itertools import repeat, takewhile
from pathlib import Path
from typing import Literal, NoReturn, get_args

from seqembed.errors import FastaError
from seqembed.fasta.records import MAX_ID_BYTES, Records
from seqembed.storage.digests import digest

IdStyle = Literal["header", "file:header", "whole-header", "accession"]

# The most characters of an id that SequenceIds keeps as text; of a longer id it keeps the digest.
SHORT_ID = 64


class SequenceIds:
    """Gives records their ids, and remembers where each id was used.

    style: the setting `ids`, which says how an id is made from a header; ValueError if it is
    unknown. Each id takes about 200 bytes of memory, whatever its length.
    """

    def __init__(self, style: IdStyle) -> None:
        if style not in get_args(IdStyle):
            raise ValueError(f"ids must be one of {', '.join(get_args(IdStyle))}, not {style!r}")
        self._style = style
        # The keys are the ids, or the digests of long ids, in the order of rows.
        self._seen: dict[str | bytes, None] = {}
        self._lines = array("q")
        self._files: list[Path] = []
        self._first_rows: list[int] = []

    def begin(self, path: Path) -> None:
        """Note that the next records are read from `path`."""
        self._files.append(path)
        self._first_rows.append(len(self._lines))

    def name(self, records: Records) -> list[str]:
        """Return the ids of records, in order.

        Raises FastaError for an id that was used before, naming both places, and for an id of more
        than MAX_ID_BYTES.
        """
        names, begin = self._make(records), len(self._seen)
        keys = [n if len(n) <= SHORT_ID else digest(n.encode()) for n in names]
        self._seen.update(zip(keys, repeat(None)))
        self._lines.extend(records.lines)
        if len(self._seen) < begin + len(names):
            self._refuse_used(keys, begin, names, records)
        if (place := len(names)) < len(records):
            record, line = records.sequence_ids[place][:40], records.lines[place]
            message = f"`ids: {self._style}` makes an id over {MAX_ID_BYTES:,} bytes; shorten the "
            raise FastaError(f"{message}header", path=self._files[-1], record=record, line=line)
        return names

    def _make(self, records: Records) -> list[str]:
        """Return the ids of the records; stop before the first that is longer than MAX_ID_BYTES."""
        if self._style == "header":
            return records.sequence_ids
        if self._style == "accession":
            return list(map(cut_accession, records.sequence_ids))
        names: Iterable[str] = records.headers
        if self._style == "file:header":
            prefix = f"{self._files[-1].name}:"
            names = (prefix + sequence_id for sequence_id in records.sequence_ids)
        return list(takewhile(lambda name: len(name.encode()) <= MAX_ID_BYTES, names))

    def _refuse_used(
        self, keys: Iterable[str | bytes], begin: int, names: list[str], records: Records
    ) -> NoReturn:
        """Raise FastaError for the first of the records' ids that was used before.

        names: the ids. keys: the same, but digests of long ids. begin: the first record's row.
        """
        rows = {key: row for row, key in enumerate(self._seen)}
        found = (rows[key] for key in keys)
        place, row = next((p, row) for p, row in enumerate(found) if row != begin + p)
        path, first = self._files[-1], self._files[bisect_right(self._first_rows, row) - 1]
        advice = "rename one of the records"
        if self._style == "file:header":
            advice += " or of the files" if first != path else ""
        elif first != path:
            advice += ", or set `ids: file:header`"
        elif self._style != "whole-header":
            advice += ", or set `ids: whole-header` if the whole headers differ"
        message = f"this id was already used in {first}, line {self._lines[row]}; {advice}"
        raise FastaError(message, path=path, record=names[place], line=records.lines[place])


def cut_accession(sequence_id: str) -> str:
    """Return the accession in an id, `db|ACCESSION|NAME` or `gi|NUMBER|db|ACCESSION`.

    An id of another form is returned as it is.
    """
    database, *parts = sequence_id.split("|")
    if database == "gi" and len(parts) > 2 and parts[2]:
        return parts[2]
    return parts[0] if parts and parts[0] else sequence_id
