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
    """Write the rows and the ids; a tab or line break in an id is escaped as in quarantine.tsv."""
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


def _lines(ids: list[str]) -> bytes:
    text = "".join(f"{name}\n" for name in ids)
    # To escape each id takes longer than to write its row.
    if "\t" in text or "\r" in text or text.count("\n") != len(ids):
        text = "".join(f"{escape(name)}\n" for name in ids)
    return text.encode()
