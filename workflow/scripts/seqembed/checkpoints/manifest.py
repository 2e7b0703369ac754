"""The checkpoint folder of a shard: its manifest, what is finished in it, and how it grows."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import (
    DAMAGE,
    Block,
    list_blocks,
    list_residues,
    read_block,
    read_flags,
)
from seqembed.checkpoints.failures import FAILURES, IN_FLIGHT
from seqembed.errors import CheckpointError
from seqembed.storage.digests import count_distinct
from seqembed.storage.json_files import read_json, write_json
from seqembed.storage.publish import remove_temporary, set_aside

FORMAT_VERSION = "1"
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """What a shard's checkpoint folder belongs to, and the token budget of its batch plan.

    Raises CheckpointError for a budget that no plan can have.

    recipe: the recipe's fields. model: its name. width: values of a row.
    """

    rank: int
    world_size: int
    recipe_fingerprint: str
    shard_fingerprint: str
    token_budget: int
    model: str
    weights_sha256: str
    width: int
    recipe: Mapping[str, str | int]

    def __post_init__(self) -> None:
        if type(self.token_budget) is not int or self.token_budget < 1:
            raise CheckpointError(f"a token budget of {self.token_budget!r} holds nothing")


def write_manifest(folder: Path, manifest: CheckpointManifest) -> None:
    """Write `manifest.json` durably."""
    write_json(folder / MANIFEST, "checkpoint", FORMAT_VERSION, asdict(manifest))


def read_manifest(folder: Path) -> CheckpointManifest | None:
    """The folder's manifest, None where there is none; raises CheckpointError for a damaged one."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    try:
        content = read_json(path, "checkpoint", FORMAT_VERSION)
        return CheckpointManifest(
            **{name: content[name] for name in CheckpointManifest.__dataclass_fields__}
        )
    except (CheckpointError, *DAMAGE) as error:
        raise CheckpointError(f"{path}: damaged manifest ({error!r}); remove it") from error


def name_other_folders(checkpoint_dir: Path, rank: int, logger: logging.Logger) -> None:
    """Say which folders of other recipes or splits lie beside a rank's: they are left alone."""
    others = checkpoint_dir.parent.glob(f"*/shard_{rank}")
    names = sorted(path.parent.name for path in others if path.parent != checkpoint_dir)
    if names:
        logger.info("checkpoints of other settings or sequences, left alone: %s", ", ".join(names))


def clear(folder: Path) -> None:
    """Remove what a worker left in its checkpoint folder, so that it starts over."""
    residues = [*folder.glob("residues_*.raw"), *folder.glob(".residues_*.tmp")]
    shards = folder.glob("shard_*.h5")
    others = [folder / name for name in (MANIFEST, FAILURES, IN_FLIGHT)]
    for path in [*list_blocks(folder), *others, *residues, *shards]:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed workers left: temporary files, and token rows that no block names.

    Only who holds the folder may do so, when its blocks were read and the damaged ones set aside.
    """
    remove_temporary(folder)
    if not (spools := list(folder.glob("residues_*.raw"))):
        return
    named = {residues.name for _, residues in list_residues(list_blocks(folder))}
    for path in spools:
        if path.name not in named:
            path.unlink()


def count_twice(folder: Path) -> int:
    """How many rows of a folder's blocks stand there again: two workers computed them."""
    digests, _ = read_flags(list_blocks(folder))
    return len(digests) - count_distinct(digests)


def read_finished(
    folder: Path, logger: logging.Logger
) -> tuple[Set[str], NDArray[np.floating] | None]:
    """Every row of a folder's blocks: hex digests in an ordered set, and (n, D) rows on disk.

    Row i belongs to the i-th digest. A damaged block is set aside with a warning: its sequences
    are embedded again.
    """
    places: dict[str, None] = {}
    if not list_blocks(folder):
        return places.keys(), None
    width, dtype = 0, np.dtype(np.float32)
    with tempfile.TemporaryFile(dir=folder) as file:
        for path in list_blocks(folder):
            if not (block := _read_or_set_aside(path, logger)):
                continue
            names = [digest.tobytes().hex() for digest in block.digests]
            # Two workers may have computed one batch: the rows are equal, and one is taken.
            new = [row for row, name in enumerate(names) if name not in places]
            places.update(dict.fromkeys(names))
            block.rows[new].tofile(file)
            width, dtype = block.rows.shape[1], block.rows.dtype
        file.flush()
        # The mapping keeps the unlinked file alive.
        rows = np.memmap(file, dtype, "r", shape=(len(places), width)) if places else None
    return places.keys(), rows


def _read_or_set_aside(path: Path, logger: logging.Logger) -> Block | None:
    try:
        return read_block(path)
    except CheckpointError as error:
        logger.warning("%s; set aside as %s", error, set_aside(path).name)
        return None
