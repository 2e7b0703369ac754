"""What an index remembers of its FASTA files, and whether they are still so."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from seqembed.index.parquet import damage_named, read_columns, read_metadata


def describe_files(files: Iterable[str | Path]) -> str:
    """JSON: a list of each file's path, its size in bytes, and the time it was changed, in ns."""
    rows = []
    for file in files:
        state = os.stat(file)
        rows.append({"path": str(file), "size": state.st_size, "mtime_ns": state.st_mtime_ns})
    return json.dumps(rows)


def reads_without_gaps(path: Path) -> bool:
    """Whether the gaps of the FASTA files were taken out for this index."""
    return read_metadata(path, "index").get("gaps") == "remove"


def read_file_counts(path: Path) -> list[tuple[Path, int]]:
    """The FASTA files of a whole index, in input order, and how many of its rows each has."""
    counts: dict[str, int] = {}
    with damage_named(path):
        column = read_columns(path, ["file"], read_dictionary=["file"])["file"]
        for chunk in column.chunks:
            # The dictionary is in order of appearance, which value_counts keeps.
            for item in chunk.value_counts().to_pylist():
                counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
    return [(Path(name), count) for name, count in counts.items()]


def find_changes(index: Path, folder: Path) -> Iterator[str]:
    """What an index remembers of its files and is otherwise today, a sentence a file.

    folder: what their paths are relative to. An older program's index remembers nothing. Raises
    IndexFormatError for an index that cannot be read.
    """
    for row in json.loads(read_metadata(index, "index").get("files", "[]")):
        if change := _compare(row, folder / row["path"]):
            yield f"{row['path']} {change}"


def _compare(row: dict[str, Any], path: Path) -> str | None:
    try:
        state = path.stat()
    except OSError as error:
        return f"is not there any more ({error.strerror}), so it was not compared"
    if state.st_size != row["size"]:
        return f"has {state.st_size:,} bytes, but had {row['size']:,} when it was indexed"
    if state.st_mtime_ns != row["mtime_ns"]:
        return "has another time than when it was indexed: its contents may be others, too"
    return None
