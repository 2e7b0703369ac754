"""Compare an HDF5 file with its index and quarantine.tsv: every id has a row, or a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqembed.index.parquet import read_metadata
from seqembed.index.table import (
    check_rows,
    read_excluded,
    read_ids_and_reasons,
    read_lengths_and_digests,
    read_shard_index,
)
from seqembed.results.quarantine import HEADER, table_line
from seqembed.results.reader import EmbeddingsFile
from seqembed.storage.digests import DigestIndex, digest_rows
from seqembed.verify.rows import are_quarantined, error_of, expect_attributes, read_ids, refuse

# Ids without a row, or digests in their place, and why.
Quarantined = list[tuple[str, str]]


def check_merged(file: EmbeddingsFile, index: Path) -> Quarantined:
    """Raise unless each id of the index has its row, in order, or is in quarantine.tsv.

    Returns the ids that workers could not embed.
    """
    lengths, digests = read_lengths_and_digests(index)
    check_rows(index, digests)
    if file.attributes["index_fingerprint"] != read_metadata(index, "index")["fingerprint"]:
        message = f"was made from other ids or sequences than {index}"
        raise error_of(message, "run again, so that it is merged anew")
    quarantined = _follow(file, index, digests)
    kept = ~(read_excluded(index) | are_quarantined(file, digests))
    _check_columns(file, index, digests[kept], lengths[kept])
    if strange := int((DigestIndex(digests).find(digest_rows(file.quarantine())) < 0).sum()):
        raise error_of(f"quarantine/digests: {strange:,} belong to no sequence of {index}")
    return quarantined


def check_shard(file: EmbeddingsFile, index: Path) -> None:
    """Raise unless the shard holds, in input order, the sequences of its index."""
    shard = read_shard_index(index)
    own = {"rank": shard.rank, "world_size": shard.world_size}
    advice = "run again, so that it is made anew"
    expect_attributes(file, own | {"shard_fingerprint": shard.fingerprint}, f"in {index}", advice)
    order = np.argsort(shard.rows, kind="stable")
    kept = order[~are_quarantined(file, shard.digests[order])]
    _check_columns(file, index, shard.digests[kept], shard.lengths[kept])


def _follow(file: EmbeddingsFile, index: Path, digests: NDArray[np.uint8]) -> Quarantined:
    """Compare the index with the file's ids and quarantine.tsv; return what was quarantined."""
    table, reasons = file.path.with_name("quarantine.tsv"), file.quarantine()
    quarantined, id_place, line_place = [], "sequence_ids, row", f"{table}, line"
    ids, lines = enumerate(read_ids(file)), enumerate(_read_lines(table), 2)
    for row, (name, excluded) in enumerate(read_ids_and_reasons(index)):
        reason = reasons.get(digests[row].tobytes()) if excluded is None else excluded
        if reason is None:
            _expect(name, ids, id_place, index)
        else:
            _expect(table_line(name, reason), lines, line_place, index)
        if reason is not None and excluded is None:
            quarantined.append((name, reason))
    _expect(None, ids, id_place, index)
    _expect(None, lines, line_place, index)
    return quarantined


def _expect(wanted: str | None, found: Iterator[tuple[int, str]], place: str, index: Path) -> None:
    """Raise ShardError unless `wanted` comes next, or nothing for None."""
    number, text = next(found, (None, None))
    if text != wanted:
        where = "after the last" if number is None else f"{number:,}"
        shown, expected = ("nothing" if t is None else repr(t) for t in (text, wanted))
        raise error_of(f"{place} {where}: {shown}, where {index} has {expected}")


def _read_lines(table: Path) -> Iterator[str]:
    """The lines of quarantine.tsv after its header; none where there is no file."""
    if not table.exists():
        return
    with table.open(encoding="utf-8", errors="replace", newline="\n") as file:
        if file.readline() != HEADER:
            raise error_of(f"{table}, line 1: is not the header")
        for line in file:
            yield line.removesuffix("\n")


def _check_columns(
    file: EmbeddingsFile, index: Path, digests: NDArray[np.uint8], lengths: NDArray[np.int64]
) -> None:
    """Raise ShardError unless the file's rows are those of (N, 16) digests and (N,) lengths."""
    if file.count != len(digests):
        raise error_of(f"has {file.count:,} rows, not {len(digests):,} as {index} has sequences")
    refuse(file, "digests", (file.digests() != digests).any(axis=1), f"is not that of {index}")
    refuse(file, "lengths", file.lengths() != lengths, f"is not that of {index}")
