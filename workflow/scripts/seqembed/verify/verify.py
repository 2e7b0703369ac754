"""Looks for what is wrong with a finished file of ours, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from seqembed.checkpoints.blocks import read_block
from seqembed.errors import (
    CheckpointError,
    FastaError,
    FileFormatError,
    IndexFormatError,
    ModelError,
    ShardError,
)
from seqembed.index.parquet import open_parquet, read_metadata, read_row_group
from seqembed.index.table import check_rows, read_lengths_and_digests, read_shard_index
from seqembed.results.reader import EmbeddingsFile, open_embeddings
from seqembed.storage.digests import digest
from seqembed.verify.index import check_merged, check_shard
from seqembed.verify.inputs import check_fasta, check_weights
from seqembed.verify.rows import check_alone

RESIDUES = ["sequence_id", "length", "digest", "residues"]


def verify(path: Path, index: Path | None = None, *, fail_on_quarantine: bool = False) -> str:
    """Look at an embeddings.h5, a shard, a checkpoint block or an index; say what it holds.

    index: the one that an HDF5 file belongs to; left out, the one beside it, if it is there.

    Raises FileFormatError, beginning with `path`, for the first thing that is wrong; with
    `fail_on_quarantine` also where some sequences could not be embedded.
    """
    try:
        if path.suffix == ".h5":
            return _verify_embeddings(path, index, fail_on_quarantine)
        if path.suffix in _VERIFIERS:
            return f"{path}: {_VERIFIERS[path.suffix](path):,} sequences, all is well"
    except FileFormatError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise FileFormatError(f"{path}: {error}") from error
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise FileFormatError(f"{path}: cannot be read ({error}); run again") from error
    raise FileFormatError(f"{path}: ends in none of .h5, {', '.join(_VERIFIERS)}; name another")


def _verify_embeddings(path: Path, index: Path | None, fail_on_quarantine: bool) -> str:
    with open_embeddings(path) as file:
        merged = check_alone(file) == "embeddings"
        index = index or _find_index(path, None if merged else file.attributes["rank"])
        quarantined = check_merged(file, index) if merged else check_shard(file, index)
        missing = _check_inputs(file, index) if merged and index else []
        said = f"{path}: {file.count:,} sequences, all is well"
        if missing:
            said += f"; not there, and so not compared: {', '.join(missing)}"
    if not quarantined.count:
        return said
    told = f"{quarantined.count:,} more could not be embedded: {quarantined}"
    if fail_on_quarantine:
        raise ShardError(
            f"{path}: {told}; {path.with_name('quarantine.tsv')} names all: take them out of the "
            f"FASTA files, or set `execution: {{on_quarantine: warn}}`, or remove {path} and "
            f"{path.with_name('shards')} to have them tried again"
        )
    return f"{said}; {told}"


def _check_inputs(file: EmbeddingsFile, index: Path) -> list[str]:
    """Compare what a result was made of with what it remembers; return what is missing."""
    try:
        return check_fasta(index) + check_weights(file)
    except (FastaError, ModelError) as error:
        raise FileFormatError(f"{file.path}: {error}") from error


def _find_index(path: Path, rank: str | int | None) -> Path | None:
    """The index that belongs to an HDF5 file, where the workflow puts both; rank: a shard's."""
    index = path.with_name("index.parquet")
    if rank is not None:
        index = path.parent / f"../index/shard_{rank}.parquet"
    return index if index.exists() else None


def _verify_block(path: Path) -> int:
    block = read_block(path)
    values = {"rows": block.rows}
    if block.residues:
        values["token rows"] = block.residues.rows(path.parent, block.rows.shape[1])
    for name, rows in values.items():
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            row = f"{name}, row {int(finite.argmin()):,}"
            raise CheckpointError(
                f"{path}: {row}: has a value that is not finite; remove it and run again"
            )
    return len(block.rows)


def _verify_index(path: Path) -> int:
    if read_metadata(path, "index", "shard")["kind"] == "index":
        _, digests = read_lengths_and_digests(path)
        check_rows(path, digests)
        return len(digests)
    count = len(read_shard_index(path).rows)
    with open_parquet(path) as file:
        for number in range(file.num_row_groups):
            for row in read_row_group(file, number, RESIDUES).to_pylist():
                if (digest(row["residues"]), len(row["residues"])) != (
                    row["digest"],
                    row["length"],
                ):
                    told = f"residues of {row['sequence_id']!r}: are not those of its digest"
                    raise IndexFormatError(f"{path}: {told}; remove it and run again")
    return count


_VERIFIERS: dict[str, Callable[[Path], int]] = {
    ".parquet": _verify_index,
    ".safetensors": _verify_block,
}
