"""Results and checkpoints of other runs, with rows as in known_files, for a run that may take them.

The run computes REQUEST with MODEL; RECIPE is what that comes to on a CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from described_models import protein_model
from known_files import WIDTH, flags_of, rows_of, token_rows_of, write_known_file
from worker_runs import EMBEDDING

from seqembed.checkpoints.blocks import write_next_block
from seqembed.checkpoints.manifest_and_failures import CheckpointManifest, write_manifest
from seqembed.checkpoints.token_rows import ResidueSpool
from seqembed.results.reader import store_path
from seqembed.settings.recipe import Recipe, publish_recipe, resolve_fields
from seqembed.settings.request import Request
from seqembed.storage.digests import digest

LOGGER = logging.getLogger("seqembed.known_sources")
MODEL = protein_model()
REQUEST = Request(**EMBEDDING)
RECIPE = Recipe(**resolve_fields(REQUEST, MODEL) | {"precision": "fp32"})
TOKEN_RECIPE = replace(RECIPE, per_residue=True)
# Another way to each field's value: the model, its tokenizer, a setting, a device, a version.
OTHER_RECIPES = {
    "weights": replace(RECIPE, weights="b" * 64),
    "tokenizer": replace(RECIPE, tokenizer="other"),
    "layer": replace(RECIPE, layer=0),
    "pooling": replace(RECIPE, pooling="max"),
    "precision": replace(RECIPE, precision="bf16"),
    "storage": replace(RECIPE, storage="float16"),
    "long_sequences": replace(RECIPE, long_sequences="truncate"),
    "max_length": replace(RECIPE, max_length=1021),
    "per_residue": TOKEN_RECIPE,
    "device": replace(RECIPE, device="cuda"),
    "numerics_version": replace(RECIPE, numerics_version=2),
}


def digests_of(sequences: Sequence[str]) -> np.ndarray:
    """The (n, 16) digests of sequences."""
    keys = [list(digest(sequence.encode())) for sequence in sequences]
    return np.array(keys, np.uint8).reshape(-1, 16)


def lengths_of(sequences: Sequence[str]) -> np.ndarray:
    return np.array([len(sequence) for sequence in sequences], np.int64)


def write_result(
    path: Path, sequences: Sequence[str], recipe: Recipe = RECIPE, **changes: Any
) -> Path:
    """Write an embeddings.h5; `changes` replace attributes, or are write_known_file's."""
    content = {"kind": "embeddings", "recipe_fingerprint": recipe.fingerprint}
    content |= {"tokens": recipe.per_residue} | recipe.fields() | changes
    return write_known_file(path, lengths_of(sequences), digests_of(sequences), **content)


def write_recipe(results: Path, recipe: Recipe) -> None:
    """Write a recipe to a dataset's folder, as a worker of any request does."""
    publish_recipe(recipe, results / f"recipes/{recipe.fingerprint[:24]}.json")


def write_stored(
    results: Path, sequences: Sequence[str], recipe: Recipe = RECIPE, **changes: Any
) -> Path:
    """Write a result to a dataset's store, and its recipe."""
    write_recipe(results, recipe)
    path = store_path(results / "store", recipe.fingerprint)
    return write_result(path, sequences, recipe, **changes)


def write_checkpoint(
    results: Path,
    blocks: Sequence[Sequence[str]],
    recipe: Recipe = RECIPE,
    *,
    split: str = "0" * 12,
    rank: int = 0,
    finished: Sequence[str] | None = None,
    device_name: str = "",
) -> Path:
    """Write the checkpoint of a shard of an earlier split; return its folder.

    blocks: the sequences of each block. finished: those of shard_{rank}.h5, if there is one.
    """
    write_recipe(results, recipe)
    folder = results / f"checkpoints/{recipe.fingerprint[:12]}-{split}/shard_{rank}"
    manifest = CheckpointManifest(
        rank=rank,
        world_size=rank + 1,
        recipe_fingerprint=recipe.fingerprint,
        shard_fingerprint=split,
        token_budget=512,
        model="esm",
        weights_sha256="ab" * 32,
        width=WIDTH,
        recipe=recipe.fields(),
        device_name=device_name,
    )
    write_manifest(folder, manifest)
    for sequences in blocks:
        write_block_of(folder, sequences, recipe)
    if finished is not None:
        write_result(folder / f"shard_{rank}.h5", finished, recipe, kind="shard")
    return folder


def write_block_of(folder: Path, sequences: Sequence[str], recipe: Recipe = RECIPE) -> Path:
    """Write a block, with token rows if the recipe has them."""
    digests, residues = digests_of(sequences), None
    if recipe.per_residue:
        spool = ResidueSpool(folder)
        for place, sequence in enumerate(sequences):
            spool.add(place, token_rows_of(digests[place], len(sequence), recipe.storage))
        residues = spool.seal(range(len(sequences)))
    rows = rows_of(digests, recipe.storage)
    return write_next_block(folder, digests, rows, flags_of(digests), batches=1, residues=residues)


def read_content(folder: Path) -> Mapping[str, tuple[bytes, int]]:
    """The bytes and the time of change of all files in a folder, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
    }
