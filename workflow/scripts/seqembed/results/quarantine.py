"""quarantine.tsv: the ids that get no embedding, each with the reason; the header always."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from seqembed.index.table import IndexFingerprint, read_ids_and_reasons, read_lengths_and_digests
from seqembed.storage.publish import published

HEADER = "sequence_id\treason\n"
# `ids: file:header` puts the name of a file into an id, and file names may hold any of these.
_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def escape(text: str) -> str:
    """The text on one line, in one cell."""
    return text.translate(_ESCAPES)


def table_line(sequence_id: str, reason: str) -> str:
    """A line of the table, without its end."""
    return f"{escape(sequence_id)}\t{escape(reason)}"


def write_quarantine(index_path: Path, path: Path, quarantined: Mapping[bytes, str]) -> int:
    """Write the ids without an embedding, in the order of the index; return their number.

    These are what the index excludes, and what workers could not embed: `quarantined`, digests with
    the reason. A tab or a line break in an id or a reason is written as two characters, such as
    backslash and t. Raises IndexFormatError if the index is damaged.
    """
    count, fingerprint = 0, IndexFingerprint()
    _, digests = read_lengths_and_digests(index_path)
    with published(path) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(HEADER)
            # One may be shorter if the index is damaged, which its fingerprint shows.
            for (name, reason), digest in zip(
                read_ids_and_reasons(index_path), digests, strict=False
            ):
                fingerprint.update([name], [digest.tobytes()], [reason])
                reason = quarantined.get(digest.tobytes(), reason)
                if reason is not None:
                    file.write(f"{table_line(name, reason)}\n")
                    count += 1
        fingerprint.check(index_path)
    return count
