"""Indices, and files of embeddings whose rows are known: a row is the beginning of its digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from indexing import index_proteins, make_check, split_proteins

from seqembed.index.reader import read_shard_index
from seqembed.results.reader import slab_bounds
from seqembed.results.rows import TokenRows
from seqembed.results.writer import Slab, write_embeddings
from seqembed.settings.recipe import Recipe
from seqembed.storage.digests import digest

WIDTH = 4
KNOWN_RECIPE = Recipe(
    weights="a" * 64,
    tokenizer="esm2",
    layer=33,
    pooling="mean",
    precision="fp32",
    storage="float32",
    long_sequences="truncate",
    max_length=1022,
    numerics_version=1,
)
# Of each field of the recipe, values that KNOWN_RECIPE does not have.
OTHER_VALUES: dict[str, list[Any]] = {
    "weights": ["b" * 64],
    "tokenizer": ["other"],
    "layer": [32],
    "pooling": ["max", "cls"],
    "precision": ["fp16"],
    "storage": ["float16"],
    "long_sequences": ["full", "error", "window"],
    "max_length": [1021],
    "per_residue": [True],
    "device": ["cuda"],
    "numerics_version": [2],
}


def write_indices(
    folder: Path,
    sequences: Mapping[str, str] | Sequence[str],
    *,
    shards: int = 0,
    fasta: Path | None = None,
    invalid: str = "skip",
    ids: Any = "header",
) -> Path:
    """Write a FASTA file, its index and that of each shard, index/shard_*; return the index.

    sequences: by id, or those of s0, s1, ...; those with a J are excluded.
    """
    if not isinstance(sequences, Mapping):
        sequences = {f"s{number}": sequence for number, sequence in enumerate(sequences)}
    folder.mkdir(parents=True, exist_ok=True)
    fasta, index = fasta or folder / "a.fasta", folder / "index.parquet"
    fasta.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in sequences.items()))
    index_proteins([fasta], index, ids, make_check(invalid))
    if shards:
        split_proteins(index, [folder / f"index/shard_{rank}.parquet" for rank in range(shards)])
    return index


def rows_of(digests: np.ndarray, storage: str = "float32", width: int = WIDTH) -> np.ndarray:
    """The rows, (n, width), of sequences of (n, 16) digests."""
    return np.tile(digests, -(-width // 16))[:, :width].astype(storage)


def flags_of(digests: np.ndarray) -> np.ndarray:
    """The flags, (n,), of sequences of (n, 16) digests."""
    return digests[:, 3] & 7


def token_rows_of(digest: np.ndarray, count: int, storage: str = "float32") -> np.ndarray:
    """The token rows, (count, WIDTH), of a sequence."""
    return rows_of(digest[None], storage) + np.arange(count)[:, None].astype(storage)


def write_known_shard(
    folder: Path,
    place: int,
    *,
    keep: slice = slice(None),
    failed: Mapping[str, str] | None = None,
    **changes: Any,
) -> Path:
    """Write shards/shard_{place}.h5 of an index of `write_indices`, in input order.

    keep: which of its rows; failed: why sequences have no row; `changes` replace attributes.
    """
    path = folder / f"index/shard_{place}.parquet"
    part, names = read_shard_index(path), pq.read_table(path)["sequence_id"].to_pylist()
    order = np.argsort(part.rows)[keep]
    own = {"rank": place, "world_size": part.world_size, "shard_fingerprint": part.fingerprint}
    reasons = {digest(sequence.encode()): reason for sequence, reason in (failed or {}).items()}
    here = {key.tobytes() for key in part.digests[order]}
    return write_known_file(
        folder / f"shards/shard_{place}.h5",
        part.lengths[order],
        part.digests[order],
        names=[names[row] for row in order],
        quarantine={key: reason for key, reason in reasons.items() if key in here},
        **{"kind": "shard"} | own | changes,
    )


def write_known_file(
    path: Path,
    lengths: np.ndarray,
    digests: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    width: int = WIDTH,
    storage: str = "float32",
    shift: int = 0,
    tokens: bool = False,
    quarantine: Mapping[bytes, str] | None = None,
    **attributes: Any,
) -> Path:
    """Write a sealed file of sequences; `shift` is added to their rows, tokens are as the lengths.

    quarantine: why sequences, by digest, have no row.
    """
    here = np.array([key.tobytes() not in (quarantine or {}) for key in digests], bool)
    names = [f"row {row}" for row in range(len(here))] if names is None else names
    names = [name for name, kept in zip(names, here, strict=True) if kept]
    lengths, digests = lengths[here], digests[here]
    slabs = (
        Slab(
            sequence_ids=names[start:stop],
            lengths=lengths[start:stop],
            digests=digests[start:stop],
            flags=flags_of(digests[start:stop]),
            embeddings=rows_of(digests[start:stop], storage, width) + np.array(shift, storage),
        )
        for start, stop in slab_bounds(len(lengths), width)
    )
    counts = zip(digests, lengths.tolist(), strict=True)
    residues = TokenRows(
        offsets=np.append(0, lengths.cumsum()),
        parts=(token_rows_of(key, count, storage) for key, count in counts),
    )
    write_embeddings(
        path,
        count=len(lengths),
        width=width,
        storage=storage,
        attributes={"storage": storage} | attributes,
        slabs=slabs,
        residues=residues if tokens else None,
        quarantine=quarantine,
    )
    return path
