"""Write a finished shard: the rows of a checkpoint, in input order, as one HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from seqembed.checkpoints.saved_rows import (
    SavedRows,
    list_saved,
    pool_saved_tokens,
    read_all_saved,
)
from seqembed.checkpoints.taken_files import read_taken
from seqembed.errors import CheckpointError, ShardError
from seqembed.index.parquet import Digests, Int64s, int64_array, read_columns
from seqembed.index.reader import read_shard_index
from seqembed.results.reader import open_embeddings, slab_bounds
from seqembed.results.rows import RowPool, TokenRows
from seqembed.results.writer import cut_slabs, write_embeddings
from seqembed.storage.digests import DigestIndex, count_distinct, from_hex, join_digests, to_hex

# The (m, 16) digests of rows that are in other files, and the paths of these files.
Reused = tuple[Digests, Sequence[str]]
# The name of the shard's index in the checkpoint folder.
INDEX = "index.parquet"


def read_shard_ids(index_path: Path) -> Any:
    """Return the ids in a shard's index as an Arrow array of text; IndexFormatError if damaged."""
    return read_columns(index_path, ["sequence_id"])["sequence_id"].combine_chunks()


def count_duplicate_rows(folder: Path) -> int:
    """Return how many rows in a folder's blocks are surplus copies, which a second worker wrote."""
    blocks = (read_block(path, check=False) for path in list_blocks(folder))
    digests = join_digests(block.digests for block in blocks)
    return len(digests) - count_distinct(digests)


def assemble_shard(
    folder: Path, rank: int, ids: Sequence[str], arrays: Sequence[NDArray[np.floating]]
) -> Path:
    """Write `shard_{rank}.h5` in the checkpoint folder, some rows at a time; return its path.

    ids: the hex digests of all rows of `arrays`, in order. arrays: each (n_i, D), float32 or
    float16. Flags and token rows are read from the other files in `folder`. If the finished shard
    is there already, it stays. Raises CheckpointError if the folder has no manifest or no index,
    ShardError if a sequence of the shard has no row, is not quarantined, and is not reused.
    """
    manifest = read_manifest(folder)
    if manifest is None or not (folder / INDEX).exists():
        raise CheckpointError(f"{folder}: lacks {MANIFEST} or {INDEX}; remove it and run again")
    shard, path = read_shard_index(folder / INDEX), folder / f"shard_{rank}.h5"
    places = DigestIndex(from_hex(ids)).find(shard.digests)
    order = np.argsort(shard.rows, kind="stable")
    quarantine, reused = _explain_absent(path, shard.digests[order[places[order] < 0]])
    order = order[places[order] >= 0]
    digests = shard.digests[order]
    names = read_shard_ids(folder / INDEX).take(int64_array(order))
    content = (names, digests, quarantine, reused)
    if list_saved(folder) == [path] and _is_same(path, manifest, *content):
        return path
    saved = list(read_all_saved(folder))
    flags = np.concatenate([np.empty(0, np.uint8), *(file.flags for file in saved)])
    in_files = DigestIndex(join_digests(file.digests for file in saved)).find(digests)
    if missing := int((in_files < 0).sum()):
        raise ShardError(f"{path}: the files of {missing:,} rows are gone; run again")
    pool = RowPool(arrays, manifest.width, str(manifest.recipe["storage"]))
    write_embeddings(
        path,
        count=len(order),
        width=manifest.width,
        storage=str(manifest.recipe["storage"]),
        attributes=_attributes(manifest),
        slabs=cut_slabs(
            (name.as_py() for name in names),
            shard.lengths[order],
            digests,
            flags[in_files],
            places[order],
            pool,
        ),
        residues=_take_token_rows(path, saved, in_files, manifest),
        quarantine=quarantine,
        reused=reused,
    )
    return path


def _explain_absent(path: Path, absent: Digests) -> tuple[dict[bytes, str], Reused | None]:
    """Return why sequences of the shard at `path` have no row in it: quarantined, or reused.

    absent: (n, 16), their digests. Raises ShardError unless all of them are either.
    """
    reasons, taken = read_failures(path.parent).quarantined, read_taken(path.parent)
    reused = DigestIndex(from_hex(reasons)).find(absent) < 0
    quarantine = {bytes.fromhex(name): reasons[name] for name in to_hex(absent[~reused])}
    if missing := int(reused.sum()) - taken.count:
        raise ShardError(f"{path}: {missing:,} sequences have no row; run again")
    return quarantine, (absent[reused], taken.files) if taken.count else None


def _is_same(
    path: Path,
    manifest: CheckpointManifest,
    names: Any,
    digests: Digests,
    quarantine: Mapping[bytes, str],
    reused: Reused | None,
) -> bool:
    """Whether the finished shard at `path` holds these ids and sequences, and nothing else.

    After a split into another number of shards, a shard may hold the same sequences as before.
    """
    expected = (reused[0].tobytes(), list(reused[1])) if reused else (b"", [])
    with open_embeddings(path) as file:
        keys, files = file.reused()
        return (
            file.attributes.get("world_size") == manifest.world_size
            and np.array_equal(file.digests(), digests)
            and file.quarantine() == quarantine
            and (keys.tobytes(), files) == expected
            and all(
                file.ids(start, stop) == names[start:stop].to_pylist()
                for start, stop in slab_bounds(len(digests), 1)
            )
        )


def _attributes(manifest: CheckpointManifest) -> dict[str, str | int]:
    return {
        "kind": "shard",
        "model": manifest.model,
        "weights_sha256": manifest.weights_sha256,
        **manifest.recipe,
        **manifest.remarks,
        "recipe_fingerprint": manifest.recipe_fingerprint,
        "rank": manifest.rank,
        "world_size": manifest.world_size,
        "shard_fingerprint": manifest.shard_fingerprint,
    }


def _take_token_rows(
    path: Path, saved: Sequence[SavedRows], places: Int64s, manifest: CheckpointManifest
) -> TokenRows | None:
    """Return the token rows of n sequences; None if the recipe keeps no token rows.

    saved: the rows of all files. places: (n,), the numbers of the sequences, counted through all
    files. Raises ShardError, which names the shard's file, `path`, if a sequence has no token rows.
    """
    if not manifest.recipe.get("per_residue"):
        return None
    pool = pool_saved_tokens(saved)
    if pool is None or (places < 0).any():
        raise ShardError(f"{path}: some sequences have no token rows; run again")
    return pool.take(places)
