"""The FASTA files that an index records, and how they have changed since."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from seqembed.index.parquet import damage_named, read_columns, read_metadata


def describe_files(files: Iterable[str | Path]) -> str:
    """Return as JSON each file's path, its size in bytes, and its modification time in ns."""
    rows = []
    for file in files:
        state = os.stat(file)
        rows.append({"path": str(file), "size": state.st_size, "mtime_ns": state.st_mtime_ns})
    return json.dumps(rows)


def reads_without_gaps(path: Path) -> bool:
    """Whether gaps were removed from the sequences of an index."""
    return read_metadata(path, "index").get("gaps") == "remove"


def read_file_counts(path: Path) -> list[tuple[Path, int]]:
    """Return the FASTA files of an index, in input order, and the number of rows of each."""
    counts: dict[str, int] = {}
    with damage_named(path):
        column = read_columns(path, ["file"], read_dictionary=["file"])["file"]
        for chunk in column.chunks:
            # The dictionary is in order of appearance, which value_counts keeps.
            for item in chunk.value_counts().to_pylist():
                counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
    return [(Path(name), count) for name, count in counts.items()]


def find_changes(index: Path, folder: Path) -> Iterator[str]:
    """Yield a sentence for each FASTA file that has changed since it was indexed.

    folder: the one that their paths are relative to. Indexes of older versions record no files.
    Raises IndexFormatError for an index that cannot be read.
    """
    for row in json.loads(read_metadata(index, "index").get("files", "[]")):
        if change := _compare(row, folder / row["path"]):
            yield f"{row['path']} {change}"


def _compare(row: dict[str, Any], path: Path) -> str | None:
    try:
        state = path.stat()
    except OSError as error:
        return f"is missing ({error.strerror}), so it was not compared"
    if state.st_size != row["size"]:
        return f"has {state.st_size:,} bytes, but had {row['size']:,} when it was indexed"
    if state.st_mtime_ns != row["mtime_ns"]:
        return "has another modification time than when it was indexed: it may have changed"
    return None
