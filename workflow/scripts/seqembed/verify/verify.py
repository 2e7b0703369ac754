"""Verify a finished file of any kind, without writing anything."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from seqembed.checkpoints.blocks import read_block
from seqembed.errors import FileFormatError, SeqembedError, count_of
from seqembed.index.parquet import damage_error, open_parquet, read_metadata, read_row_group
from seqembed.index.reader import check_rows, read_lengths_and_digests, read_shard_index
from seqembed.results.quarantine_table import escape
from seqembed.results.reader import open_embeddings
from seqembed.storage.digests import digest
from seqembed.verify.inputs import check_fasta, check_merged, check_shard, check_weights
from seqembed.verify.rows import NOT_FINITE, check_alone, find_not_finite

RESIDUES = ["sequence_id", "length", "digest", "residues"]


def verify(path: Path, index: Path | None = None, *, fail_on_quarantine: bool = False) -> str:
    """Check an embeddings.h5, a shard, a checkpoint block or an index; return a line for the user.

    index: the index with which an HDF5 file is compared; None: the index where the workflow puts
    it, if there is one. Raises FileFormatError, whose message begins with `path`, for the first
    fault; with `fail_on_quarantine` also if some sequences could not be embedded.
    """
    counters = {".parquet": _verify_index, ".safetensors": _verify_block}
    try:
        if path.suffix == ".h5":
            found = _verify_embeddings(path, index, fail_on_quarantine)
        elif path.suffix in counters:
            found = f"{counters[path.suffix](path):,} sequences, all is well"
        else:
            raise FileFormatError(
                "its name does not end in .h5, .parquet or .safetensors; name another file"
            )
    except SeqembedError as error:
        problem = str(error).removeprefix(f"{path}: ")
        raise FileFormatError(f"{path}: {problem}") from error
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise FileFormatError(f"{path}: cannot be read ({error}); run again") from error
    return f"{path}: {found}"


def _verify_embeddings(path: Path, index: Path | None, fail_on_quarantine: bool) -> str:
    with open_embeddings(path) as file:
        merged = check_alone(file) == "embeddings"
        name = "index.parquet" if merged else f"../index/shard_{file.attributes['rank']}.parquet"
        if index is None and (path.parent / name).exists():
            index = path.parent / name
        # Without an index, the ids of these sequences are not known; their digests are shown.
        quarantined = [(key.hex(), reason) for key, reason in file.quarantine().items()]
        summary = f"{file.count:,} sequences, all is well"
        if index and not merged:
            check_shard(file, index)
        elif index:
            quarantined = check_merged(file, index)
            if missing := check_fasta(index) + check_weights(file):
                summary += f"; missing, and so not compared: {', '.join(missing)}"
    if quarantined and fail_on_quarantine:
        raise FileFormatError(
            f"{_describe(quarantined)}; {path.with_name('quarantine.tsv')} lists all: take them "
            "out of the FASTA files, or set `execution: {on_quarantine: warn}`; to try them again, "
            f"remove {path} and run again"
        )
    return f"{summary}; besides, {_describe(quarantined)}" if quarantined else summary


def _describe(quarantined: list[tuple[str, str]]) -> str:
    shown = ", ".join(f"{name!r} ({escape(reason)})" for name, reason in quarantined[:3])
    more = ", ..." if len(quarantined) > 3 else ""
    return f"{count_of(len(quarantined), 'sequence')} could not be embedded: {shown}{more}"


def _verify_block(path: Path) -> int:
    block = read_block(path)
    values = {"rows": block.rows}
    if block.residues:
        values["token rows"] = block.residues.rows(path.parent, block.rows.shape[1])
    for name, rows in values.items():
        if (row := find_not_finite(rows)) is not None:
            problem = f"{name}, row {row:,}: {NOT_FINITE}"
            raise FileFormatError(f"{problem}; remove the file and run again")
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
                found = digest(row["residues"]), len(row["residues"])
                if found != (row["digest"], row["length"]):
                    problem = (
                        f"residues of {row['sequence_id']!r} do not match the digest or the length"
                    )
                    raise damage_error(path, problem)
    return count
