"""Indexes of proteins as the programs make them for ESM-2, each with its residues beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seqembed.checks.residues import ResidueCheck
from seqembed.fasta.reader import read_batches
from seqembed.fasta.records import Record
from seqembed.index.sources import Sources
from seqembed.index.split import split_index
from seqembed.index.writer import write_index
from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.vocabularies import ESM
from seqembed.settings.lengths import LengthPolicy

WHOLE = LengthPolicy(long_sequences="full", max_length=0)


def write_fasta(
    folder: Path, sequences: Sequence[str], name: str = "a.fasta", prefix: str = "s"
) -> Path:
    """Write a FASTA file of records s0, s1, ..., each described as "about"."""
    path = folder / name
    path.write_text("".join(f">{prefix}{n} about\n{s}\n" for n, s in enumerate(sequences)))
    return path


def make_check(
    asked: Any = "error",
    molecule: Any = "protein",
    letters: bytes = ESM.letters,
    *,
    gaps: Any = "error",
    suspicious: Any = "error",
) -> ResidueCheck:
    """Return a check, by default one that refuses whatever ESM-2 does not know."""
    return ResidueCheck(letters, molecule, asked, gaps=gaps, suspicious=suspicious)


def index_proteins(
    files: Sequence[str | Path], index: Path, ids: Any = "header", check: ResidueCheck | None = None
) -> int:
    """Index files; left out, `check` refuses whatever ESM-2 does not know."""
    return write_index(files, index, index.with_suffix(".bin"), ids, check or make_check())


def split_proteins(index: Path, shards: Sequence[Path], **options: Any) -> Sources:
    """Split an index that index_proteins wrote; options: split_index's, in place of ESM-2's."""
    known = {"tokenizer": ResidueTokenizer(ESM), "policy": WHOLE, "unit": "residues"}
    return split_index(index, index.with_suffix(".bin"), shards, **known | options)


def make_shards(
    folder: Path,
    files: Sequence[Path],
    world_size: int,
    check: ResidueCheck | None = None,
    **options: Any,
) -> list[Path]:
    """Write index.parquet and index/shard_*.parquet; return the shards."""
    index_proteins(files, folder / "index.parquet", check=check)
    shards = [folder / f"index/shard_{rank}.parquet" for rank in range(world_size)]
    split_proteins(folder / "index.parquet", shards, **options)
    return shards


def read_records(path: Path, **options: int) -> Iterator[Record]:
    """Read a FASTA file record by record; options: read_batches'."""
    return (record for records in read_batches(path, **options) for record in records)
