"""Export a result: write it in another layout, and read it back before the file gets its name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from seqembed.errors import ConfigError
from seqembed.export.annotations import read_annotations
from seqembed.export.h5ad import OWN_COLUMNS, Observations, read_h5ad, write_h5ad
from seqembed.export.npy import read_npy, write_npy
from seqembed.export.parquet import read_parquet, write_parquet
from seqembed.export.result import Result, Slab, compare, open_result
from seqembed.export.uniprot import (
    read_per_residue,
    read_uniprot,
    write_per_residue,
    write_uniprot,
)
from seqembed.machine.screen import Report, no_report
from seqembed.machine.words import format_bytes
from seqembed.storage.publish import published, remove_temporary, sync

Write = Callable[[Result, Path, Path], None]
Read = Callable[[Result, Path], Iterator[Slab]]

NPY, IDS, H5AD = "embeddings.npy", "ids.txt", "embeddings.h5ad"
# The exports of one file, by name; embeddings.h5ad needs more than the result.
ONE_FILE: dict[str, tuple[Write, Read]] = {
    "embeddings.parquet": (write_parquet, read_parquet),
    "uniprot.h5": (write_uniprot, read_uniprot),
    "uniprot_per_residue.h5": (write_per_residue, read_per_residue),
}


def export(
    result_path: Path,
    output: Path,
    dtype: str,
    logger: logging.Logger,
    *,
    index: Path | None = None,
    annotations: str | None = None,
    report: Report = no_report,
) -> None:
    """Export a result to `output`, whose name says the layout; of embeddings.npy, to ids.txt too.

    dtype: of the exported rows, "float32" or "float16". index: the result's index.parquet, and
    annotations: the path of a table, or None; embeddings.h5ad alone takes these. report: told which
    share is done.

    Raises:
        ConfigError: no export has this name; or the table is not right; or a value does not fit
            into float16.
        ShardError: the result is damaged, or the export cannot be written.
        IndexFormatError: the index is damaged.
        ExportError: the result lacks what the export needs; or the export gave back something else
            than was written.
    """
    make = _choose(output, index, annotations, logger)
    outputs = [output, output.with_name(IDS)] if output.name == NPY else [output]
    for path in outputs:
        remove_temporary(path.parent, of=path.name)
    with open_result(result_path, dtype, report) as result:
        make(result, output)
        size = format_bytes(sum(path.stat().st_size for path in outputs))
        shape = f"{result.file.count:,} rows of {result.file.width:,} {result.dtype} values"
        logger.info(f"{output}: {shape}, {size}")


def _choose(
    output: Path, index: Path | None, annotations: str | None, logger: logging.Logger
) -> Callable[[Result, Path], None]:
    """Return what makes the export of this name; a table is read here, before the result."""
    if output.name == NPY:
        return _make_npy
    if output.name in ONE_FILE:
        return partial(_make, *ONE_FILE[output.name])
    if output.name == H5AD and index:
        table = read_annotations(annotations, OWN_COLUMNS) if annotations else None
        others = Observations(index, table, logger)
        return partial(_make, partial(write_h5ad, others=others), read_h5ad)
    known = ", ".join([*ONE_FILE, NPY, f"{H5AD} (with an index)"])
    raise ConfigError(f"{output}: no export has this name; known: {known}")


def _make(write: Write, read: Read, result: Result, output: Path) -> None:
    with published(output) as temporary:
        write(result, temporary, output)
        _check(output, result, read(result, temporary), temporary)


def _make_npy(result: Result, output: Path) -> None:
    # The rows are renamed last, and older rows removed before: rows are never beside other ids.
    with published(output) as rows, published(output.with_name(IDS)) as ids:
        write_npy(result, rows, ids)
        _check(output, result, read_npy(result, rows, ids), rows)
        if output.is_file():
            output.unlink()


def _check(output: Path, result: Result, found: Iterator[Slab], temporary: Path) -> None:
    """Compare what is read back with what was read of the result, while the file is synced."""
    with ThreadPoolExecutor(1, "sync") as thread:
        synced = thread.submit(sync, temporary)
        compare(output, result, found)
        synced.result()
