"""An HDF5 file beside its index and quarantine.tsv: every id has a row, or a reason."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ShardError
from seqembed.index.parquet import read_metadata
from seqembed.index.table import (
    check_rows,
    read_ids_and_reasons,
    read_lengths_and_digests,
    read_shard_index,
)
from seqembed.results.quarantine import HEADER, escape, table_line
from seqembed.results.reader import EmbeddingsFile
from seqembed.storage.digests import DigestIndex, digest_rows
from seqembed.verify.rows import AGAIN, read_ids, refuse

SHOWN_IDS = 3


@dataclass(kw_only=True)
class Quarantined:
    """The ids without a row because they could not be embedded; first: some, with reasons."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str, reason: str) -> None:
        self.count += 1
        if self.count <= SHOWN_IDS:
            self.first.append(f"{name!r} ({escape(reason)})")

    def __str__(self) -> str:
        return ", ".join(self.first) + (", ..." if self.count > SHOWN_IDS else "")


def check_merged(file: EmbeddingsFile, index: Path | None) -> Quarantined:
    """Raise unless each id of the index has its row, in order, or stands in quarantine.tsv."""
    reasons = file.quarantine()
    if index is None:
        return _without_index(reasons)
    lengths, digests = read_lengths_and_digests(index)
    check_rows(index, digests)
    if file.attributes["index_fingerprint"] != read_metadata(index, "index")["fingerprint"]:
        message = f"is of other ids or sequences than {index}; run again, so that it is merged anew"
        raise ShardError(f"{file.path}: {message}")
    quarantined, kept = _follow(file, index, digests, reasons)
    _check_columns(file, index, digests[kept], lengths[kept])
    if strange := int((DigestIndex(digests).find(digest_rows(reasons)) < 0).sum()):
        message = f"quarantine/digests: {strange:,} are of no sequence of {index}"
        raise ShardError(f"{file.path}: {message}; {AGAIN}")
    return quarantined


def _follow(
    file: EmbeddingsFile, index: Path, digests: NDArray[np.uint8], reasons: dict[bytes, str]
) -> tuple[Quarantined, NDArray[np.int64]]:
    """Go through the index, the file's ids and quarantine.tsv together.

    Returns what workers quarantined, and the rows of the index that have an embedding, (N,).
    """
    table, quarantined, kept = _table(file.path), Quarantined(), array("q")
    ids, lines = enumerate(read_ids(file)), enumerate(_read_lines(table), 2)
    for number, (name, excluded) in enumerate(read_ids_and_reasons(index)):
        reason = reasons.get(digests[number].tobytes()) if excluded is None else excluded
        if reason is None:
            _expect(name, ids, f"{file.path}: sequence_ids, row", index)
            kept.append(number)
            continue
        _expect(table_line(name, reason), lines, f"{table}, line", index)
        if excluded is None:
            quarantined.add(name, reason)
    _expect(None, ids, f"{file.path}: sequence_ids, row", index)
    _expect(None, lines, f"{table}, line", index)
    return quarantined, np.array(kept, np.int64)


def _expect(wanted: str | None, found: Iterator[tuple[int, str]], place: str, index: Path) -> None:
    """Raise ShardError unless `wanted` comes next, or nothing for None."""
    number, text = next(found, (None, None))
    if text != wanted:
        where = f"{place} {number:,}" if number is not None else f"{place} after the last"
        told = f"{where}: {_shown(text)}, where {index} has {_shown(wanted)}"
        raise ShardError(f"{told}; {AGAIN}")


def _shown(text: str | None) -> str:
    return "nothing" if text is None else repr(text)


def _table(path: Path) -> Path:
    return path.with_name("quarantine.tsv")


def _read_lines(table: Path) -> Iterator[str]:
    """The lines of quarantine.tsv after its header; none where there is no file."""
    if not table.exists():
        return
    with table.open(encoding="utf-8", errors="replace", newline="\n") as file:
        if file.readline() != HEADER:
            raise ShardError(f"{table}, line 1: is not its header; {AGAIN}")
        for line in file:
            yield line.removesuffix("\n")


def check_shard(file: EmbeddingsFile, index: Path | None) -> Quarantined:
    """Raise unless the shard holds, in input order, the sequences of its index."""
    reasons = file.quarantine()
    if index is None:
        return _without_index(reasons)
    shard = read_shard_index(index)
    own = {"rank": shard.rank, "world_size": shard.world_size}
    for name, value in (own | {"shard_fingerprint": shard.fingerprint}).items():
        if (found := file.attributes.get(name)) != value:
            message = f"attribute {name} is {found!r}, but {index} makes it {value!r}"
            raise ShardError(f"{file.path}: {message}; run again, so that it is made anew")
    order = np.argsort(shard.rows, kind="stable")
    without = DigestIndex(digest_rows(reasons)).find(shard.digests[order]) >= 0
    kept = order[~without]
    _check_columns(file, index, shard.digests[kept], shard.lengths[kept])
    return _without_index(reasons)


def _check_columns(
    file: EmbeddingsFile, index: Path, digests: NDArray[np.uint8], lengths: NDArray[np.int64]
) -> None:
    """Raise ShardError unless the file's rows are those of (N, 16) digests and (N,) lengths."""
    if file.count != len(digests):
        message = f"has {file.count:,} rows, but {index} makes it {len(digests):,}"
        raise ShardError(f"{file.path}: {message}; {AGAIN}")
    refuse(file, "digests", (file.digests() != digests).any(axis=1), f"is not that of {index}")
    refuse(file, "lengths", file.lengths() != lengths, f"is not that of {index}")


def _without_index(reasons: dict[bytes, str]) -> Quarantined:
    """Where no index tells the ids, the digests stand for them."""
    quarantined = Quarantined()
    for key, reason in reasons.items():
        quarantined.add(key.hex(), reason)
    return quarantined
