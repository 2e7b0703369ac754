"""Write quarantine.tsv: the ids that get no embedding, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from seqembed.index.reader import read_checked_ids, read_lengths_and_digests
from seqembed.results.quarantine_table import HEADER, table_line
from seqembed.storage.publish import published


def write_quarantine(index_path: Path, path: Path, quarantined: Mapping[bytes, str]) -> int:
    """Write the ids without an embedding to `path`, in the order of the index; return their number.

    These ids are the ones that the index excludes, and those of quarantined sequences. quarantined:
    the digests, 16 bytes each, of sequences that workers could not embed, with the reasons. Raises
    IndexFormatError if the index is damaged.
    """
    count, (_, digests) = 0, read_lengths_and_digests(index_path)
    with published(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(HEADER)
        ids = read_checked_ids(index_path, digests)
        for (name, reason), digest in zip(ids, digests, strict=True):
            reason = quarantined.get(digest.tobytes(), reason)
            if reason is not None:
                file.write(f"{table_line(name, reason)}\n")
                count += 1
    return count
