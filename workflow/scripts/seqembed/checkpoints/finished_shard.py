"""Write a finished shard: the rows of a checkpoint, in input order, as one HDF5 file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import list_blocks, read_block
from seqembed.checkpoints.manifest_and_failures import (
    MANIFEST,
    CheckpointManifest,
    read_failures,
    read_manifest,
)
from seqembed.checkpoints.token_rows import ResidueFile
from seqembed.errors import CheckpointError, ShardError
from seqembed.index.parquet import int64_array, read_columns
from seqembed.index.reader import read_shard_index
from seqembed.results.rows import RowPool, TokenRowPool, TokenRows
from seqembed.results.writer import cut_slabs, write_embeddings
from seqembed.storage.digests import DigestIndex, count_distinct, from_hex, to_hex

# The name of the shard's index in the checkpoint folder.
INDEX = "index.parquet"


def read_shard_ids(index_path: Path) -> Any:
    """Return the ids in a shard's index as an Arrow array of text; IndexFormatError if damaged."""
    return read_columns(index_path, ["sequence_id"])["sequence_id"].combine_chunks()


def count_duplicate_rows(folder: Path) -> int:
    """Return how many rows in a folder's blocks are surplus copies, which a second worker wrote."""
    digests, _, _ = _read_details(folder)
    return len(digests) - count_distinct(digests)


def assemble_shard(
    folder: Path, rank: int, ids: Sequence[str], arrays: Sequence[NDArray[np.floating]]
) -> Path:
    """Write `shard_{rank}.h5` in the checkpoint folder, some rows at a time; return its path.

    ids: the hex digests of all rows of `arrays`, in order. arrays: each (n_i, D), float32 or
    float16. Flags and token rows are read from the blocks in `folder`. Raises CheckpointError if
    the folder has no manifest or no index, ShardError if a sequence of the shard has no row and is
    not quarantined.
    """
    manifest = read_manifest(folder)
    if manifest is None or not (folder / INDEX).exists():
        raise CheckpointError(f"{folder}: lacks {MANIFEST} or {INDEX}; remove it and run again")
    shard, path = read_shard_index(folder / INDEX), folder / f"shard_{rank}.h5"
    places = DigestIndex(from_hex(ids)).find(shard.digests)
    reasons, absent = read_failures(folder).quarantined, to_hex(shard.digests[places < 0])
    quarantine = {bytes.fromhex(name): reasons[name] for name in absent if name in reasons}
    if missing := len(absent) - len(quarantine):
        raise ShardError(f"{path}: {missing:,} sequences have no row; run again")
    order = np.argsort(shard.rows, kind="stable")
    order = order[places[order] >= 0]
    digests = shard.digests[order]
    block_digests, flags, token_rows = _read_details(folder)
    in_blocks = DigestIndex(block_digests).find(digests)
    pool = RowPool(arrays, manifest.width, str(manifest.recipe["storage"]))
    names = read_shard_ids(folder / INDEX).take(int64_array(order))
    write_embeddings(
        path,
        count=len(order),
        width=manifest.width,
        storage=str(manifest.recipe["storage"]),
        attributes={
            "kind": "shard",
            "model": manifest.model,
            "weights_sha256": manifest.weights_sha256,
            **manifest.recipe,
            **manifest.remarks,
            "recipe_fingerprint": manifest.recipe_fingerprint,
            "rank": manifest.rank,
            "world_size": manifest.world_size,
            "shard_fingerprint": manifest.shard_fingerprint,
        },
        slabs=cut_slabs(
            (name.as_py() for name in names),
            shard.lengths[order],
            digests,
            flags[in_blocks],
            places[order],
            pool,
        ),
        residues=_take_token_rows(path, token_rows, in_blocks, manifest),
        quarantine=quarantine,
    )
    return path


def _read_details(
    folder: Path,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[ResidueFile | None]]:
    """Return (n, 16) digests and (n,) flags of all rows in a folder's blocks, and a list of files.

    The list has each block's file of token rows, None for a block without token rows. No block
    stays open: there may be more blocks than a process may open files.
    """
    digests, flags = [np.empty((0, 16), np.uint8)], [np.empty(0, np.uint8)]
    token_rows = []
    for block in (read_block(path, check=False) for path in list_blocks(folder)):
        digests.append(block.digests)
        flags.append(block.flags)
        token_rows.append(block.residues)
    return np.concatenate(digests), np.concatenate(flags), token_rows


def _take_token_rows(
    path: Path,
    files: Sequence[ResidueFile | None],
    places: NDArray[np.int64],
    manifest: CheckpointManifest,
) -> TokenRows | None:
    """Return the token rows of n sequences; None if the recipe keeps no token rows.

    files: each block's. places: (n,), the numbers of the sequences, counted through all blocks.
    Raises ShardError, which names the shard's file, `path`, if a sequence has no token rows.
    """
    if not manifest.recipe.get("per_residue"):
        return None
    kept = [residues for residues in files if residues]
    if len(kept) < len(files) or (places < 0).any():
        raise ShardError(f"{path}: some sequences have no token rows; run again")
    pool = TokenRowPool(
        [residues.rows(path.parent, manifest.width) for residues in kept],
        [np.append(0, residues.counts.cumsum()) for residues in kept],
    )
    return pool.take(places)
