"""The form of quarantine.tsv: a header, then a line for each id that has no row.

A line has the id, a tab and the reason; a tab or line break in either of them is escaped.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

HEADER = "sequence_id\treason\n"
# `ids: file:header` puts the name of a file into an id, and the name may hold these characters.
_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def escape(text: str) -> str:
    """Return a text on one line: a tab or line break becomes a backslash with t, n or r."""
    return text.translate(_ESCAPES)


def table_line(sequence_id: str, reason: str) -> str:
    """Return the line of an id and its reason in quarantine.tsv, without the line break."""
    return f"{escape(sequence_id)}\t{escape(reason)}"


def find_reason(path: Path, sequence_id: str) -> str | None:
    """Return the reason that a quarantine.tsv gives for an id; None if it does not name the id.

    Also None if the file is missing or cannot be read.
    """
    begin = table_line(sequence_id, "")
    with suppress(OSError), path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        next(file, None)
        for line in file:
            if line.startswith(begin):
                return line[len(begin) :].removesuffix("\n")
    return None
