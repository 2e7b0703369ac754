"""How much disk a run takes under results/{dataset}/, at its peak and at its end.

Disk is taken most when the last shards are written, while their blocks are still there, or in the
merge, when all shards and the result are there. What is there already counts, each inode once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seqembed.checkpoints.taken_files import TAKEN
from seqembed.index.parquet import Int64s
from seqembed.look.shards import PlannedShard, has_stored_result, will_relink
from seqembed.results.reader import store_path
from seqembed.results.seal import USER_BLOCK_BYTES
from seqembed.settings.lengths import LengthPolicy
from seqembed.settings.recipe import Recipe
from seqembed.worker.manifest import checkpoint_key

# What HDF5 takes for each id beside its text: a reference in `sequence_ids`, and the object's head.
ID_REFERENCE, ID_HEAD = 16, 16
# lengths, digests and flags of a row.
DIGEST_BYTES = 16
COLUMN_BYTES = 8 + DIGEST_BYTES + 1
# About what the headers of an HDF5 file take, and the unfilled rest of its last heap.
HEADER_BYTES = 20_000
# A digest and a flag of a row in a block; with token rows, also their number.
BLOCK_COLUMNS, BLOCK_COUNTS = DIGEST_BYTES + 1, 8
ITEM_BYTES = {"float32": 4, "float16": 2}

# By inode: a file's bytes on the disk, and its paths in the dataset's folder.
Held = dict[int, tuple[int, list[Path]]]


@dataclass(frozen=True, kw_only=True)
class DiskPlan:
    """Bytes under results/{dataset}/: now, at the most, and when the run has ended.

    result: the size of embeddings.h5, which is part of both.
    """

    now: int
    peak: int
    end: int
    result: int

    @property
    def more(self) -> int:
        """How many bytes more than now are taken at the peak."""
        return self.peak - self.now


@dataclass(frozen=True, kw_only=True)
class RowSizes:
    """The bytes of rows in this dataset's files.

    row: of one row, or token row. per_residue: whether token rows are kept.
    """

    row: int
    per_residue: bool
    policy: LengthPolicy

    @classmethod
    def of(cls, recipe: Recipe, width: int, policy: LengthPolicy) -> RowSizes:
        row = width * ITEM_BYTES[recipe.storage]
        return cls(row=row, per_residue=recipe.per_residue, policy=policy)

    def file(self, id_bytes: Int64s, tokens: Int64s) -> int:
        """Return the size of an HDF5 file of n rows; id_bytes: of each id. tokens: of each row."""
        fixed = USER_BLOCK_BYTES + HEADER_BYTES
        # Each text in the heap begins at a multiple of 8 bytes.
        texts = int((-(-id_bytes // 8) * 8 + ID_HEAD + ID_REFERENCE).sum())
        offsets = 8 * (len(tokens) + 1) if self.per_residue else 0
        return fixed + texts + len(tokens) * COLUMN_BYTES + offsets + self._rows(tokens)

    def blocks(self, tokens: Int64s) -> int:
        """Return the size of the blocks of n rows; tokens: of each row."""
        columns = BLOCK_COLUMNS + (BLOCK_COUNTS if self.per_residue else 0)
        return len(tokens) * columns + self._rows(tokens)

    def _rows(self, tokens: Int64s) -> int:
        token_rows = int(self.policy.kept(tokens).sum()) if self.per_residue else 0
        return (len(tokens) + token_rows) * self.row


def plan_disk(
    results: Path,
    shards: Sequence[PlannedShard],
    recipe: Recipe,
    sizes: RowSizes,
    *,
    result: int,
    at_once: int,
    new_indexes: int = 0,
) -> DiskPlan:
    """Return the disk that a run takes which computes what the shards lack.

    results: the dataset's folder. result: the size of its embeddings.h5. at_once: how many shards
    are computed at the same time. new_indexes: the bytes of the indexes, if they are not there yet.
    """
    held = _measure(results)
    now = sum(size for size, _ in held.values())
    if has_stored_result(results, recipe):
        # The merge makes a link to this result.
        return DiskPlan(now=now, peak=now, end=now, result=result)
    replaced = _Replaced(recipe, {checkpoint_key(recipe, shard.index) for shard in shards})
    stays = new_indexes + _count_left(held, replaced.by_shards)
    written = sum(_measure_shard(shard, sizes) for shard in shards)
    beside = sorted((_measure_beside(shard, sizes) for shard in shards), reverse=True)
    assembled = stays + written + sum(beside[:at_once])
    # Snakemake removes an old embeddings.h5 before the merge; in the store it stays.
    lone = sum(size for size, paths in held.values() if paths == [Path("embeddings.h5")])
    merged = stays - lone + written
    if not will_relink(results, recipe, shards):
        merged += result
    end = new_indexes + _count_left(held, replaced.by_merge) + result
    return DiskPlan(now=now, peak=max(now, assembled, merged), end=end, result=result)


def _count_left(held: Held, is_gone: Callable[[Path], bool]) -> int:
    """Return the bytes of the files that keep a path for which `is_gone` is False."""
    return sum(size for size, paths in held.values() if not all(map(is_gone, paths)))


def _measure_shard(shard: PlannedShard, sizes: RowSizes) -> int:
    """Return the bytes of shard_{rank}.h5, which has the digests of rows that are elsewhere."""
    own, elsewhere = shard.own, int((~shard.own).sum())
    rows = sizes.file(shard.id_bytes[own], shard.index.tokens[own])
    return rows + DIGEST_BYTES * elsewhere


def _measure_beside(shard: PlannedShard, sizes: RowSizes) -> int:
    """Return the bytes that a shard's blocks take while the shard is written."""
    blocks = sizes.blocks(shard.index.tokens[shard.own])
    # With token rows, a resumed worker copies the other rows of saved blocks to read them.
    return blocks + (int(shard.saved.sum()) * sizes.row if sizes.per_residue else 0)


@dataclass(frozen=True)
class _Replaced:
    """Which files of results/{dataset}/ a run replaces or removes; paths: relative to that folder.

    keys: the names of the checkpoint folders of the present shards.
    """

    recipe: Recipe
    keys: set[str]

    def by_shards(self, path: Path) -> bool:
        """Whether the file holds rows of a present shard, which are counted anew."""
        top = path.parts[0]
        if top == "shards":
            return True
        return top == "checkpoints" and len(path.parts) > 2 and path.parts[1] in self.keys

    def by_merge(self, path: Path) -> bool:
        """Whether the file is gone, or replaced, when the merge has ended."""
        name = self.recipe.fingerprint[:12]
        if path.parts[0] == "checkpoints":
            return path.parts[1].startswith(f"{name}-")
        own = store_path(Path("store"), self.recipe.fingerprint)
        return path in (own, Path("embeddings.h5")) or path.parts[0] in ("shards", "residues.bin")


def _measure(folder: Path) -> Held:
    """Return by inode each file below a folder: its bytes on the disk, and its paths there."""
    found: Held = {}
    for place, _, names in os.walk(folder):
        # What is linked there lies in other folders, and stays there.
        if Path(place).name == TAKEN:
            continue
        for name in names:
            with suppress(FileNotFoundError):
                path = Path(place, name)
                state = path.lstat()
                _, paths = found.setdefault(state.st_ino, (512 * state.st_blocks, []))
                paths.append(path.relative_to(folder))
    return found


def used_bytes(folder: Path) -> int:
    """Return the bytes on the disk of all files below a folder, each inode once."""
    return sum(size for size, _ in _measure(folder).values())


def free_bytes(folder: Path) -> int:
    """Return how many bytes of a folder's disk are free; the folder may not exist yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
