"""A finished shard: the rows of its checkpoint folder, in input order, as one HDF5 file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import list_blocks, list_residues, read_flags
from seqembed.checkpoints.failures import read_failures
from seqembed.checkpoints.manifest import CheckpointManifest, read_manifest
from seqembed.errors import CheckpointError, ShardError
from seqembed.index.parquet import int64_array, read_columns
from seqembed.index.table import ShardIndex, read_shard_index
from seqembed.results.reader import slab_bounds
from seqembed.results.rows import RowPool, TokenRowPool
from seqembed.results.writer import Slab, TokenRows, write_embeddings
from seqembed.storage.digests import DigestIndex
from seqembed.storage.publish import link

# The shard's index, as the checkpoint folder knows it.
INDEX = "index.parquet"


def adopt_index(folder: Path, index_path: Path) -> None:
    """Let the checkpoint folder know its shard's index: order, lengths and today's ids.

    Raises IndexFormatError where these are damaged: they are wanted when all is computed.
    """
    _read_names(index_path)
    link(index_path, folder / INDEX)


def assemble_shard(
    folder: Path, rank: int, ids: Sequence[str], arrays: Sequence[NDArray[np.floating]]
) -> Path:
    """Write `shard_{rank}.h5` in the checkpoint folder, by streaming; return its path.

    ids: hex digests of the rows of `arrays`, each (n_i, D), one after the other.

    Raises:
        CheckpointError: the folder has no manifest or no index.
        ShardError: a sequence of the shard has no row and is not quarantined.
    """
    manifest = read_manifest(folder)
    if manifest is None or not (folder / INDEX).exists():
        raise CheckpointError(f"{folder}: lacks its manifest or index; remove it and run again")
    shard, path = read_shard_index(folder / INDEX), folder / f"shard_{rank}.h5"
    places = DigestIndex(_digests(ids)).find(shard.digests)
    quarantined = _quarantined(folder, shard.digests[places < 0])
    if missing := int((places < 0).sum()) - len(quarantined):
        raise ShardError(f"{path}: {missing:,} sequences have no row; run again")
    width, storage = manifest.width, str(manifest.recipe["storage"])
    pool, order = RowPool(arrays, width, storage), np.argsort(shard.rows, kind="stable")
    order = order[places[order] >= 0]
    write_embeddings(
        path,
        count=len(order),
        width=width,
        storage=storage,
        attributes=_attributes(manifest),
        slabs=_slabs(folder, shard, order, places, pool, width),
        residues=_residues(folder, path, shard.digests[order], manifest),
        quarantine=quarantined,
    )
    return path


def _quarantined(folder: Path, digests: NDArray[np.uint8]) -> dict[bytes, str]:
    """Why these sequences have no row, as far as they are quarantined."""
    reasons = read_failures(folder).quarantined
    keys = (digest.tobytes() for digest in digests)
    return {key: reasons[key.hex()] for key in keys if key.hex() in reasons}


def _read_names(index_path: Path) -> Any:
    """The ids of a shard's index, as an Arrow array."""
    return read_columns(index_path, ["sequence_id"])["sequence_id"].combine_chunks()


def _slabs(
    folder: Path,
    shard: ShardIndex,
    order: NDArray[np.int64],
    places: NDArray[np.int64],
    pool: RowPool,
    width: int,
) -> Iterator[Slab]:
    """The shard in input order, a slab at a time."""
    names = _read_names(folder / INDEX)
    flags = _flags(folder, shard.digests[order])
    for start, stop in slab_bounds(len(order), width):
        here = order[start:stop]
        yield Slab(
            sequence_ids=names.take(int64_array(here)).to_pylist(),
            lengths=shard.lengths[here],
            digests=shard.digests[here],
            flags=flags[start:stop],
            embeddings=pool.take(places[here]),
        )


def _residues(
    folder: Path, path: Path, digests: NDArray[np.uint8], manifest: CheckpointManifest
) -> TokenRows | None:
    """The token rows of these digests, in their order, if the recipe asks for them."""
    if not manifest.recipe.get("per_residue"):
        return None
    found = list_residues(list_blocks(folder))
    pool = TokenRowPool(
        [residues.rows(folder, manifest.width) for _, residues in found],
        [np.append(0, residues.counts.cumsum()) for _, residues in found],
    )
    known = np.concatenate([np.empty((0, 16), np.uint8), *(block for block, _ in found)])
    places = DigestIndex(known).find(digests)
    if missing := int((places < 0).sum()):
        raise ShardError(f"{path}: {missing:,} sequences have no token rows; run again")
    return TokenRows(offsets=pool.offsets(places), parts=pool.parts(places))


def _flags(folder: Path, digests: NDArray[np.uint8]) -> NDArray[np.uint8]:
    known, flags = read_flags(list_blocks(folder))
    places: NDArray[np.uint8] = flags[DigestIndex(known).find(digests)]
    return places


def _digests(ids: Sequence[str]) -> NDArray[np.uint8]:
    """Hex digests as (n, 16) uint8."""
    return np.frombuffer(bytes.fromhex("".join(ids)), np.uint8).reshape(-1, 16)


def _attributes(manifest: CheckpointManifest) -> dict[str, str | int]:
    return {
        "kind": "shard",
        "model": manifest.model,
        "weights_sha256": manifest.weights_sha256,
        **manifest.recipe,
        "recipe_fingerprint": manifest.recipe_fingerprint,
        "rank": manifest.rank,
        "world_size": manifest.world_size,
        "shard_fingerprint": manifest.shard_fingerprint,
    }
