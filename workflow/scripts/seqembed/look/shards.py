"""What each shard of a dataset holds, and which of its rows are there already."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import list_blocks, read_block
from seqembed.checkpoints.finished_shard import read_shard_ids
from seqembed.checkpoints.manifest_and_failures import read_failures
from seqembed.checkpoints.merge import is_result_of
from seqembed.errors import CheckpointError, IndexFormatError, ShardError
from seqembed.index.parquet import Digests, Int64s, read_metadata
from seqembed.index.reader import ShardIndex, read_shard_index, read_source_numbers
from seqembed.index.sources import SOURCES
from seqembed.results.reader import open_embeddings, store_path
from seqembed.results.seal import read_seal
from seqembed.settings.recipe import Recipe
from seqembed.storage.digests import DigestIndex, from_hex, join_digests
from seqembed.worker.manifest import checkpoint_key

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedShard:
    """A shard of n sequences, and what of it is there.

    reused: whether split found each row in an earlier result or checkpoint, (n,). saved: whether
    the shard's own checkpoint has each row, (n,). given_up: whether workers could not embed it,
    (n,). id_bytes: the length of each id, (n,) int64.
    """

    index: ShardIndex
    reused: Bools
    saved: Bools
    given_up: Bools
    id_bytes: Int64s

    @property
    def missing(self) -> Bools:
        """Whether each sequence is to be computed, (n,)."""
        return ~(self.reused | self.saved | self.given_up)

    @property
    def own(self) -> Bools:
        """Whether each row will be in the shard's own file, (n,)."""
        return (self.saved | ~self.reused) & ~self.given_up


def read_planned_shard(path: Path, results: Path, recipe: Recipe) -> PlannedShard:
    """Return a shard, and which of its rows are there under a recipe.

    path: the shard's index. results: the dataset's folder. Raises IndexFormatError if the index is
    damaged. Blocks that cannot be read count as missing: a worker computes their rows again.
    """
    index = read_shard_index(path)
    numbers = read_source_numbers(path, recipe.fingerprint)
    reused = np.full(len(index.rows), has_stored_result(results, recipe))
    if numbers is not None:
        reused |= numbers >= 0
    folder = results / "checkpoints" / checkpoint_key(recipe, index) / f"shard_{index.rank}"
    return PlannedShard(
        index=index,
        reused=reused,
        saved=_find_saved(folder, index) & ~reused,
        given_up=_find_given_up(folder, index),
        id_bytes=measure_texts(read_shard_ids(path)),
    )


def measure_texts(texts: Any) -> Int64s:
    """Return the bytes of n texts of an Arrow array in UTF-8, (n,) int64."""
    return np.asarray(np.from_dlpack(pc.binary_length(texts)), np.int64)


def _find_saved(folder: Path, index: ShardIndex) -> Bools:
    if (folder / f"shard_{index.rank}.h5").exists():
        return np.ones(len(index.rows), bool)
    held: list[Digests] = []
    for path in list_blocks(folder):
        with suppress(CheckpointError):
            held.append(read_block(path, check=False).digests)
    return _hold(join_digests(held), index)


def _find_given_up(folder: Path, index: ShardIndex) -> Bools:
    with suppress(CheckpointError):
        return _hold(from_hex(read_failures(folder).quarantined), index)
    return np.zeros(len(index.rows), bool)


def _hold(digests: Digests, index: ShardIndex) -> Bools:
    """Return which sequences of a shard are among (m, 16) digests, (n,) bool."""
    return DigestIndex(digests).find(index.digests) >= 0


def has_stored_result(results: Path, recipe: Recipe) -> bool:
    """Whether a merge after the last split wrote the result of this recipe to the store."""
    stored, split = store_path(results / "store", recipe.fingerprint), results / "index" / SOURCES
    with suppress(OSError):
        return stored.stat().st_mtime_ns >= split.stat().st_mtime_ns
    return False


def will_relink(results: Path, recipe: Recipe, shards: Sequence[PlannedShard]) -> bool:
    """Whether the merge will link the store's file, which has this index and recipe already.

    The file's bytes are not checked: split has done that, and a large file takes minutes.
    """
    given_up = join_digests(shard.index.digests[shard.given_up] for shard in shards)
    with suppress(IndexFormatError, ShardError):
        index = read_metadata(results / "index.parquet", "index")["fingerprint"]
        wanted = {"index_fingerprint": index, "recipe_fingerprint": recipe.fingerprint}
        path = store_path(results / "store", recipe.fingerprint)
        with open_embeddings(path, check=False) as stored:
            return is_result_of(stored, wanted, [digest.tobytes() for digest in given_up])
    return False


def is_finished(results: Path, recipe: Recipe) -> bool:
    """Whether embeddings.h5 is the result of this recipe, and of the present index."""
    result, stored = results / "embeddings.h5", store_path(results / "store", recipe.fingerprint)
    with suppress(OSError, ShardError):
        newer = result.stat().st_mtime_ns >= (results / "index.parquet").stat().st_mtime_ns
        return (
            newer and has_stored_result(results, recipe) and read_seal(result) == read_seal(stored)
        )
    return False
