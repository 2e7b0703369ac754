"""Draw a sample of a result's rows, and read what is known of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqembed.export.annotations import Annotations
from seqembed.export.described import read_described
from seqembed.machine.screen import Report, no_report
from seqembed.results.reader import EmbeddingsFile, slab_bounds
from seqembed.results.rows import RowPool
from seqembed.storage.digests import digest_ids

SAMPLED = 20_000
# Text of strangers may be of any length; a page holds that of 20,000 sequences.
LONGEST_TEXT = 200
SEED = 0
# A row with a value that is not smaller, or not a number, is damaged, and has no place on a map.
LARGEST_VALUE = 1e15

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """n sequences of a result, in its order, all of them if it has no more than SAMPLED.

    Rows with values that are not finite are left out.

    rows: their embeddings, (n, D) float32. ids, descriptions: cut to LONGEST_TEXT characters.
    files: the FASTA file of each. lengths: (n,) int64. flags: (n,) uint8. digests: (n, 16) uint8.
    columns: n values of each column of the user's table, None where the table has none.
    """

    rows: Floats
    ids: list[str]
    descriptions: list[str]
    files: list[str]
    lengths: NDArray[np.int64]
    flags: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    columns: Mapping[str, list[Any]]


def draw_sample(file: EmbeddingsFile, index: Path, annotations: Annotations | None) -> Sample:
    """Read a sample, the same each time; index: the result's. annotations: a table of the user.

    Raises ExportError if the index is of other sequences, IndexFormatError if it is damaged.
    """
    drawn = np.arange(file.count)
    if file.count > SAMPLED:
        drawn = np.sort(np.random.default_rng(SEED).choice(drawn, SAMPLED, replace=False))
    rows = RowPool([file.rows], file.width, "float32").take(drawn).astype(np.float32, copy=False)
    kept = np.maximum(rows.max(1), -rows.min(1)) < LARGEST_VALUE if rows.size else np.ones(0, bool)
    if not kept.all():
        rows, drawn = rows[kept], drawn[kept]
    descriptions, files, ids = [], [], []
    for start, names, texts, paths in read_described(file, index):
        begin, end = np.searchsorted(drawn, (start, start + len(texts)))
        for place in (drawn[begin:end] - start).tolist():
            ids.append(names[place])
            descriptions.append(cut(texts[place]))
            files.append(paths[place])
    return Sample(
        rows=rows,
        ids=list(map(cut, ids)),
        descriptions=descriptions,
        files=files,
        lengths=file.lengths()[drawn],
        flags=file.flags()[drawn],
        digests=file.digests()[drawn],
        columns=_find_columns(annotations, ids) if annotations else {},
    )


def cut(text: str) -> str:
    """Return a text of at most LONGEST_TEXT characters; "…" ends one that was longer."""
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def _show(value: Any) -> Any:
    """Return a value of a table as a page can have it: JSON knows no infinite numbers."""
    if isinstance(value, str):
        return cut(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _find_columns(annotations: Annotations, ids: list[str]) -> dict[str, list[Any]]:
    """Return the values of each column for the ids; None for an id that the table lacks."""
    places = annotations.index.find(digest_ids(ids))
    # Arrow takes null for the row of an id that is not there.
    rows = pa.array([None if place < 0 else place for place in places.tolist()], pa.int64())
    return {
        name: [_show(value) for value in column.to_pylist()]
        for name, column in ((n, c.take(rows)) for n, c in annotations.columns.items())
    }


def measure_norms(file: EmbeddingsFile, report: Report = no_report) -> Floats:
    """Return the Euclidean norm of each of N rows, (N,) float32; report: told how far it is."""
    pool, norms = RowPool([file.rows], file.width, "float32"), np.empty(file.count, np.float32)
    for start, stop in slab_bounds(file.count, max(1, file.width)):
        rows = pool.take(np.arange(start, stop))
        norms[start:stop] = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
        report(stop / file.count, stop)
    return norms
