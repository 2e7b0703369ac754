"""Read a user's table of annotations, and find the row of each id in it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from seqembed.errors import ConfigError, count_of, shorten, show
from seqembed.export.result import Result
from seqembed.storage.digests import DigestIndex, digest_ids, first_rows
from seqembed.storage.paths import expand

# The names that a table's column of ids may have.
ID_COLUMNS = ("id", "sequence_id")
# The texts that mean a missing value; a column of ids has none.
MISSING = ("", "NA", "N/A", "NaN", "nan")
# An attribute of HDF5 has at most 64 KiB: this is how many names of columns it holds, less those
# that the export makes itself.
MOST_COLUMNS = 4000
# Other texts of digits are names, not numbers: 007, 0x10, the well 1E10. A double holds 15 digits.
_WHOLE = r"^-?(0|[1-9][0-9]*)$"
_SHORT = "(0|[1-9][0-9]{0,14})"
_REAL = rf"^-?({_SHORT}([eE][+-][0-9]+)?|{_SHORT}?\.[0-9]+([eE][+-]?[0-9]+)?)$"


@dataclass(frozen=True, eq=False)
class Annotations:
    """A table of annotations of m ids.

    index: finds the row of an id's digest. columns: m values each, int64, double or text, null if
    missing.
    """

    path: Path
    index: DigestIndex
    columns: dict[str, pa.ChunkedArray]

    def find(self, result: Result, logger: logging.Logger) -> NDArray[np.int64]:
        """Return the row of each of N ids in the table, or -1, (N,) int64; log how many match."""
        parts = [np.empty(0, np.int64)]
        for start, stop in result.bounds():
            parts.append(self.index.find(digest_ids(result.file.ids(start, stop))))
        rows = np.concatenate(parts)
        matched = int((rows >= 0).sum())
        others = len(self.index.sorted_rows()[0]) - matched
        found = f"{matched:,} of {count_of(len(rows), 'id')} have annotations"
        log = logger.info if matched or not len(rows) else logger.warning
        log(f"{self.path}: {found}; {others:,} of its ids are not in the result")
        return rows


def read_annotations(text: str, reserved: Sequence[str]) -> Annotations:
    """Read a table from a file: separated by tabs if its first line has one, else by commas.

    text: its path; `~` and variables are filled in. reserved: names that no column may have. Raises
    ConfigError if the file cannot be read or is not a table, or if its ids or columns are not
    right.
    """
    path = Path(expand(text))
    try:
        table = _read_texts(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        problem = f"cannot be read as a table of text ({reason})"
        raise ConfigError(f"{path}: {problem}; save it as UTF-8 text, TSV or CSV") from error
    _check_names(path, table.column_names, reserved)
    column = _find_id_column(path, table.column_names)
    digests = _digest_distinct(path, table[column].to_pylist())
    others = {name: table[name] for name in table.column_names if name != column}
    columns = {name: _typed(texts) for name, texts in others.items()}
    return Annotations(path, DigestIndex(digests), columns)


def _find_id_column(path: Path, names: Sequence[str]) -> str:
    for name in ID_COLUMNS:
        if name in names:
            return name
    found = f"has no column `id`, only {show(names)}"
    raise ConfigError(f"{path}: {found}; name its column of ids `id`")


def _digest_distinct(path: Path, ids: Sequence[str]) -> NDArray[np.uint8]:
    """Return the digests of ids; ConfigError if an id is there twice."""
    digests = digest_ids(ids)
    again = np.flatnonzero(first_rows(digests) != np.arange(len(ids)))
    if len(again):
        found = f"repeats {count_of(len(again), 'id')}, such as {ids[again[0]]!r}"
        raise ConfigError(f"{path}: {found}; keep one row for each id")
    return digests


def _read_texts(path: Path) -> pa.Table:
    """Return a table whose columns are all text."""
    with pa.input_stream(str(path), compression="detect") as file:
        header = file.read(1 << 20).partition(b"\n")[0]
    if b"\0" in header:
        raise pa.ArrowInvalid("it holds NUL bytes")
    parse = pa_csv.ParseOptions(delimiter="\t" if b"\t" in header else ",")
    names = pa_csv.open_csv(path, parse_options=parse).schema.names
    convert = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    table = pa_csv.read_csv(path, parse_options=parse, convert_options=convert)
    _check_texts(table, parse.delimiter == "\t")
    return table


def _check_texts(table: pa.Table, tabs: bool) -> None:
    """Raise ArrowInvalid for a NUL byte, or for a line break in a table separated by tabs."""
    names = pa.chunked_array([pa.array(table.column_names, pa.string())])
    for texts in (names, *table.columns):
        if pc.any(pc.match_substring(texts, "\0")).as_py():
            raise pa.ArrowInvalid("it holds NUL bytes")
        breaks = pc.filter(texts, pc.match_substring_regex(texts, "[\r\n]"))
        if tabs and len(breaks):
            begin = shorten(breaks[0].as_py().splitlines()[0])
            raise pa.ArrowInvalid(f"a quote is not closed before {begin!r} ends its line")


def _check_names(path: Path, names: Sequence[str], reserved: Sequence[str]) -> None:
    counts = Counter(names)
    for name in names:
        if counts[name] > 1:
            problem = "is there twice"
        elif name in reserved:
            problem = "has the name of a column that the export makes itself"
        elif not name or "/" in name or name in (".", "_index"):
            problem = "has a name that an AnnData file cannot hold"
        else:
            continue
        raise ConfigError(f"{path}: the column {name!r} {problem}; rename it")
    if len(names) > MOST_COLUMNS:
        found = f"has {len(names):,} columns, and an AnnData file holds {MOST_COLUMNS:,} of a table"
        raise ConfigError(f"{path}: {found}; leave some out")


def _typed(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as int64, else as double, if all its values are numbers; else as text."""
    missing = pc.is_in(texts, value_set=pa.array(MISSING, pa.string()))
    values = pc.if_else(missing, pa.scalar(None, pa.string()), texts)
    for kind, pattern in ((pa.int64(), _WHOLE), (pa.float64(), _REAL)):
        if pc.all(pc.match_substring_regex(values, pattern), min_count=0).as_py():
            # A whole number may be too large for int64.
            with suppress(pa.ArrowInvalid):
                return values.cast(kind)
    return values
