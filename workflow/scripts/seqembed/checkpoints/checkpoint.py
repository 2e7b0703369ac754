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
from seqembed.checkpoints.finished_shard import INDEX, read_shard_ids
from seqembed.checkpoints.manifest_and_failures import FILES, CheckpointManifest, write_manifest
from seqembed.checkpoints.token_rows import copy_residues
from seqembed.errors import CheckpointError, ShardError
from seqembed.results.reader import open_embeddings, pool_token_rows, slab_bounds
from seqembed.storage.digests import DigestIndex, from_hex
from seqembed.storage.locks import lock_folder
from seqembed.storage.publish import link, remove_temporary, set_aside


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in use: the folder `shard_{rank}` in the folder `base`.

    locked: this process holds the lock of `base`. If False, the file system has no locks, and
    another worker may write to the same folder.
    """

    base: Path
    rank: int
    locked: bool
    logger: logging.Logger

    @property
    def folder(self) -> Path:
        """The folder that holds the rank's blocks."""
        return self.base / f"shard_{self.rank}"

    def begin(self, manifest: CheckpointManifest, index_path: Path) -> None:
        """Write the manifest, and link the shard's index into the folder for assemble_shard.

        Raises IndexFormatError if the index is damaged: better now than after the last batch.
        """
        read_shard_ids(index_path)
        write_manifest(self.folder, manifest)
        link(index_path, self.folder / INDEX)

    def remove_leftovers(self) -> None:
        """Remove what killed workers left: temporary files, and token rows that belong to no block.

        Call this method after read_finished, which renames damaged blocks. Without the lock,
        nothing is removed, because another worker may be writing these files.
        """
        if not self.locked:
            return
        remove_temporary(self.folder)
        found = set(self.folder.glob("residues_*.raw"))
        blocks = (read_block(path, check=False) for path in list_blocks(self.folder) if found)
        named = {self.folder / block.residues.name for block in blocks if block.residues}
        for path in found - named:
            path.unlink()

    def copy_from_store(
        self,
        path: Path,
        digests: NDArray[np.uint8],
        finished: Set[str],
        recipe_fingerprint: str,
    ) -> list[Block]:
        """Copy the shard's rows from the store into new blocks; return these blocks.

        path: the HDF5 file of the recipe in the store. digests: (n, 16) uint8, of the shard's
        sequences; those that the store lacks are left out. finished: the hex digests of sequences
        that have a row already, which are left out, too. If the store's file is missing, the list
        is empty; so it is, after a warning, if the file is damaged or not of this recipe.
        """
        blocks: list[Block] = []
        if not path.exists():
            return blocks
        try:
            with open_embeddings(path) as stored:
                if stored.attributes.get("recipe_fingerprint") != recipe_fingerprint:
                    raise ShardError(f"{path}: is of another recipe than this run; remove it")
                places = DigestIndex(stored.digests()).find(digests)
                new = (places >= 0) & (DigestIndex(from_hex(finished)).find(digests) < 0)
                digests, places = digests[new], places[new]
                flags, tokens = stored.flags(), pool_token_rows([stored])
                for start, stop in slab_bounds(len(places), stored.width):
                    here = places[start:stop]
                    block = write_next_block(
                        self.folder,
                        digests[start:stop],
                        stored.rows[here],
                        flags[here],
                        batches=1,
                        residues=copy_residues(self.folder, tokens, here) if tokens else None,
                    )
                    blocks.append(read_block(block, check=False))
        except ShardError as error:
            self.logger.warning("an earlier result is not used, its rows are made anew: %s", error)
            return blocks
        if count := sum(len(block.digests) for block in blocks):
            self.logger.info("the rows of %s sequences are taken from %s", f"{count:,}", path)
        return blocks


@contextmanager
def open_checkpoint(
    config: Mapping[str, Any],
    output_dir: Path,
    rank: int,
    leave_if_asked: Callable[[], None],
    logger: logging.Logger,
) -> Iterator[Checkpoint]:
    """Yield the rank's checkpoint, and hold the lock of its base folder during the `with` body.

    config: `checkpoint_dir`, the base folder, and `enable_checkpointing`. If the latter is False,
    the base is a temporary folder in `output_dir`, removed after the body. leave_if_asked: called
    while another worker holds the lock; an error that this call raises ends the wait.
    """
    if config["enable_checkpointing"]:
        base = config["checkpoint_dir"]
        others = base.parent.glob(f"*/shard_{rank}")
        if names := sorted(path.parent.name for path in others if path.parent != base):
            words = "checkpoints of other settings or sequences stay as they are: %s"
            logger.info(words, ", ".join(names))
        with lock_folder(base, leave_if_asked, logger) as locked:
            yield Checkpoint(base=base, rank=rank, locked=locked, logger=logger)
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".embedding-") as folder:
        yield Checkpoint(base=Path(folder), rank=rank, locked=True, logger=logger)


def read_finished(
    folder: Path, logger: logging.Logger
) -> tuple[Set[str], NDArray[np.floating] | None]:
    """Return the hex digests of all rows in a folder's blocks, in an ordered set, and the rows.

    The rows are an (n, D) array on disk, float32 or float16, or None if there are none; row i
    belongs to the i-th digest. A damaged block is renamed with a warning, its rows are left out.
    """
    found: dict[str, None] = {}
    if not (paths := list_blocks(folder)):
        return found.keys(), None
    width, dtype = 0, np.dtype(np.float32)
    with tempfile.TemporaryFile(dir=folder) as file:
        # One block is open at a time: there may be more of them than files may be open.
        for path in paths:
            try:
                block = read_block(path)
            except CheckpointError as error:
                words = (
                    "%s: damaged checkpoint block (%s), set aside as %s; its rows are recomputed"
                )
                logger.warning(words, path, error.__cause__, set_aside(path).name)
                continue
            # If two workers computed a batch, its rows are there twice, and equal: take one.
            new = np.array([name not in found for name in block.ids], bool)
            (block.rows if new.all() else block.rows[new]).tofile(file)
            found.update(dict.fromkeys(block.ids))
            width, dtype = block.rows.shape[1], block.rows.dtype
        file.flush()
        # The mapping keeps the unlinked file alive.
        rows = np.memmap(file, dtype, "r", shape=(len(found), width)) if found else None
    return found.keys(), rows


def clear(folder: Path) -> None:
    """Remove blocks, token rows, manifest, failures and finished shard from a checkpoint folder."""
    patterns = ("residues_*.raw", ".residues_*.tmp", "shard_*.h5", *FILES)
    for path in [*list_blocks(folder), *(p for text in patterns for p in folder.glob(text))]:
        path.unlink(missing_ok=True)
