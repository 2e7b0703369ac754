"""The export embeddings.npy, (N, D), and ids.txt beside it: a line for each row, with its id."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from seqembed.export.result import Result, Slab
from seqembed.results.quarantine_table import escape


def write_npy(result: Result, rows_path: Path, ids_path: Path) -> None:
    """Write the rows and the ids, each on one line: see `escape_id`."""
    header = {
        "descr": npy_format.dtype_to_descr(result.dtype),
        "fortran_order": False,
        "shape": (result.file.count, result.file.width),
    }
    with rows_path.open("wb") as rows_file, ids_path.open("wb") as ids_file:
        npy_format.write_array_header_1_0(rows_file, header)
        for ids, rows in result.slabs():
            rows_file.write(rows.data)
            ids_file.write(_lines(ids))


def read_npy(result: Result, rows_path: Path, ids_path: Path) -> Iterator[Slab]:
    """Yield the ids and rows of files that `write_npy` wrote.

    A line that is not the escaped id of its row is yielded in place of the id.
    """
    with rows_path.open("rb") as rows_file, ids_path.open("rb") as ids_file:
        npy_format.read_magic(rows_file)
        (count, width), _, dtype = npy_format.read_array_header_1_0(rows_file)
        for start, stop in result.bounds():
            ids, lines = result.file.ids(start, stop), list(islice(ids_file, stop - start))
            rows = np.fromfile(rows_file, dtype, (stop - start) * width).reshape(-1, width)
            yield (ids if b"".join(lines) == _lines(ids) else list(map(repr, lines))), rows
        if rest := rows_file.read(1) + ids_file.read(1):
            yield [repr(rest)], np.empty((0, width), dtype)


def escape_id(name: str) -> str:
    """Return an id on one line, from which it can be made again.

    A tab or line break becomes a backslash with t, n or r, and a backslash becomes two.
    """
    return escape(name.replace("\\", "\\\\"))


def _lines(ids: list[str]) -> bytes:
    text = "".join(f"{name}\n" for name in ids)
    # To escape each id takes longer than to write its row.
    if any(mark in text for mark in "\t\r\\") or text.count("\n") != len(ids):
        text = "".join(f"{escape_id(name)}\n" for name in ids)
    return text.encode()
