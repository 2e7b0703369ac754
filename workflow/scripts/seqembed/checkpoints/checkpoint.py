"""The checkpoint of a shard: a folder in which one worker at a time saves finished rows."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import Block, list_blocks, read_block, write_next_block
from seqembed.checkpoints.failures import FAILURES, IN_FLIGHT
from seqembed.checkpoints.manifest import MANIFEST, CheckpointManifest, write_manifest
from seqembed.checkpoints.shard import INDEX, read_shard_ids
from seqembed.checkpoints.token_rows import copy_residues
from seqembed.errors import CheckpointError, ShardError
from seqembed.results.reader import EmbeddingsFile, open_embeddings, pool_token_rows, slab_bounds
from seqembed.storage.digests import DigestIndex, first_rows, to_hex
from seqembed.storage.locks import lock_folder
from seqembed.storage.publish import link, remove_temporary, set_aside


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The folder `shard_{rank}` in `base`; locked: no other worker can be at work in it."""

    base: Path
    rank: int
    locked: bool
    logger: logging.Logger

    @property
    def folder(self) -> Path:
        return self.base / f"shard_{self.rank}"

    def begin(self, manifest: CheckpointManifest, index_path: Path) -> None:
        """Write the manifest, and link the shard's index: its order, lengths and today's ids.

        Raises IndexFormatError for damaged ids, which are needed only when all is computed.
        """
        read_shard_ids(index_path)
        write_manifest(self.folder, manifest)
        link(index_path, self.folder / INDEX)

    def remove_leftovers(self) -> None:
        """Remove what killed workers left: temporary files, and token rows that no block names.

        Call it when damaged blocks are set aside. Without the lock nothing is removed.
        """
        if not self.locked:
            return
        remove_temporary(self.folder)
        if not (found := list(self.folder.glob("residues_*.raw"))):
            return
        blocks = [read_block(path, check=False) for path in list_blocks(self.folder)]
        named = {block.residues.name for block in blocks if block.residues}
        for path in found:
            if path.name not in named:
                path.unlink()

    def copy_from_store(
        self, path: Path, digests: NDArray[np.uint8], recipe_fingerprint: str
    ) -> list[Block]:
        """Write, as new blocks, the rows of (n, 16) digests that the store at `path` has.

        A store that is damaged or of another recipe is not used, and a warning says so.
        """
        if not path.exists():
            return []
        try:
            with open_embeddings(path) as stored:
                if stored.attributes.get("recipe_fingerprint") != recipe_fingerprint:
                    raise ShardError(f"{path}: is of another recipe; remove it")
                places = DigestIndex(stored.digests()).find(digests)
                blocks = self._copy(stored, digests[places >= 0], places[places >= 0])
        except ShardError as error:
            self.logger.warning("the store is not used: %s", error)
            return []
        if count := sum(len(block.digests) for block in blocks):
            self.logger.info("%s sequences are taken from %s", f"{count:,}", path)
        return blocks

    def _copy(
        self, stored: EmbeddingsFile, digests: NDArray[np.uint8], places: NDArray[np.int64]
    ) -> list[Block]:
        flags, tokens, blocks = stored.flags(), pool_token_rows([stored]), []
        for start, stop in slab_bounds(len(places), stored.width):
            here = places[start:stop]
            path = write_next_block(
                self.folder,
                digests[start:stop],
                stored.rows[here],
                flags[here],
                batches=1,
                residues=copy_residues(self.folder, tokens, here) if tokens else None,
            )
            blocks.append(read_block(path, check=False))
        return blocks


@contextmanager
def open_checkpoint(
    config: Mapping[str, Any],
    output_dir: Path,
    rank: int,
    leave_if_asked: Callable[[], None],
    logger: logging.Logger,
) -> Iterator[Checkpoint]:
    """Lock the checkpoint that `config` names; without checkpointing, one that goes at the end.

    Waits while another worker holds the lock, and calls `leave_if_asked` meanwhile.
    """
    if config["enable_checkpointing"]:
        base = config["checkpoint_dir"]
        _name_other_checkpoints(base, rank, logger)
        with lock_folder(base, leave_if_asked, logger) as locked:
            yield Checkpoint(base=base, rank=rank, locked=locked, logger=logger)
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".embedding-") as folder:
        yield Checkpoint(base=Path(folder), rank=rank, locked=True, logger=logger)


def read_finished(
    folder: Path, logger: logging.Logger
) -> tuple[Set[str], NDArray[np.floating] | None]:
    """Every row of a folder's blocks: hex digests in an ordered set, and (n, D) rows on disk.

    Row i belongs to the i-th digest. A damaged block is set aside with a warning: its sequences
    are embedded again.
    """
    blocks = list(filter(None, (_read_or_set_aside(path, logger) for path in list_blocks(folder))))
    if not sum(len(block.digests) for block in blocks):
        return {}.keys(), None
    digests = np.concatenate([block.digests for block in blocks])
    # Two workers may have computed one batch: the rows are equal, and one is taken.
    new = first_rows(digests) == np.arange(len(digests))
    with tempfile.TemporaryFile(dir=folder) as file:
        ends = np.cumsum([len(block.digests) for block in blocks])
        for block, wanted in zip(blocks, np.split(new, ends[:-1]), strict=True):
            (block.rows if wanted.all() else block.rows[wanted]).tofile(file)
        file.flush()
        # The mapping keeps the unlinked file alive.
        shape = (int(new.sum()), blocks[0].rows.shape[1])
        rows = np.memmap(file, blocks[0].rows.dtype, "r", shape=shape)
    return dict.fromkeys(to_hex(digests[new])).keys(), rows


def clear(folder: Path) -> None:
    """Remove what a worker left in its checkpoint folder, so that it starts over."""
    patterns = ("residues_*.raw", ".residues_*.tmp", "shard_*.h5", MANIFEST, FAILURES, IN_FLIGHT)
    for path in [*list_blocks(folder), *(p for text in patterns for p in folder.glob(text))]:
        path.unlink(missing_ok=True)


def _read_or_set_aside(path: Path, logger: logging.Logger) -> Block | None:
    try:
        return read_block(path)
    except CheckpointError as error:
        logger.warning("%s; set aside as %s", error, set_aside(path).name)
        return None


def _name_other_checkpoints(base: Path, rank: int, logger: logging.Logger) -> None:
    """Log which checkpoints of other recipes or splits a rank has; they are left alone."""
    others = base.parent.glob(f"*/shard_{rank}")
    names = sorted(path.parent.name for path in others if path.parent != base)
    if names:
        logger.info("checkpoints of other settings or sequences, left alone: %s", ", ".join(names))
