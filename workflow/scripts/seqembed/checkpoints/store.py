"""Rows of an earlier result of the same recipe, taken instead of computed."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import list_blocks, read_block, write_next_block
from seqembed.checkpoints.token_rows import copy_residues
from seqembed.errors import CheckpointError, ShardError
from seqembed.results.reader import EmbeddingsFile, open_embeddings, pool_token_rows, slab_bounds
from seqembed.storage.digests import DigestIndex


def copy_from_store(
    path: Path,
    folder: Path,
    digests: NDArray[np.uint8],
    recipe_fingerprint: str,
    logger: logging.Logger,
) -> int:
    """Write, as checkpoint blocks in `folder`, the rows of `digests` that the store has.

    Those that the folder's blocks hold already are left out. A store that is damaged, or of
    another recipe, is passed over with a warning. Returns the number of rows written.
    """
    if not path.exists():
        return 0
    try:
        with open_embeddings(path) as stored:
            if stored.attributes.get("recipe_fingerprint") != recipe_fingerprint:
                raise ShardError(f"{path}: is of another recipe; remove it")
            missing = digests[DigestIndex(_held(folder)).find(digests) < 0]
            places = DigestIndex(stored.digests()).find(missing)
            return _write_blocks(folder, stored, missing[places >= 0], places[places >= 0])
    except ShardError as error:
        logger.warning("the store is not used: %s", error)
        return 0


def _held(folder: Path) -> NDArray[np.uint8]:
    """The digests of the folder's whole blocks, (n, 16) uint8."""
    digests = [np.empty((0, 16), np.uint8)]
    for path in list_blocks(folder):
        try:
            digests.append(read_block(path).digests)
        except CheckpointError:
            # Whoever resumes sets it aside and says so; its rows are wanted from the store.
            continue
    return np.concatenate(digests)


def _write_blocks(
    folder: Path, stored: EmbeddingsFile, digests: NDArray[np.uint8], places: NDArray[np.int64]
) -> int:
    flags, tokens = stored.flags(), pool_token_rows([stored])
    for start, stop in slab_bounds(len(places), stored.width):
        here = places[start:stop]
        write_next_block(
            folder,
            digests[start:stop],
            stored.rows[here],
            flags[here],
            batches=1,
            residues=copy_residues(folder, tokens, here) if tokens else None,
        )
    return len(places)
