"""Finish a shard of which all rows are there already: without a GPU, and without PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from seqembed.checkpoints.checkpoint import Checkpoint, open_checkpoint, read_finished
from seqembed.checkpoints.find_sources import expand_reuse
from seqembed.checkpoints.finished_shard import assemble_shard
from seqembed.checkpoints.manifest_and_failures import (
    read_failures,
    read_manifest,
    write_manifest,
)
from seqembed.checkpoints.take_rows import RowTaker
from seqembed.errors import FileFormatError, IndexFormatError, RecipeError, ShardError
from seqembed.index.reader import ShardIndex, check_split, read_shard_index
from seqembed.index.sources import Sources, read_sources
from seqembed.models.prepared import PreparedModel, read_prepared
from seqembed.results.reader import join_names, store_path
from seqembed.results.seal import read_seal
from seqembed.settings.recipe import Recipe, find_recipe, publish_recipe, read_recipe, recipe_path
from seqembed.settings.request import WorkerSettings, read_settings
from seqembed.settings.token_budget import TOKENS
from seqembed.storage.digests import to_hex
from seqembed.storage.paths import list_stores
from seqembed.worker.manifest import check_same, checkpoint_key, make_manifest
from seqembed.worker.success import describe_success


def finish_without_device(
    rank: int,
    index_path: Path,
    output_dir: Path,
    model_config: Mapping[str, Any],
    leave_if_asked: Callable[[], None],
    logger: logging.Logger,
) -> dict[str, Any] | None:
    """Write the shard and return the worker's status, if nothing is to be computed; else None.

    The arguments are gpu_worker's. leave_if_asked: called while another worker has the lock of the
    checkpoint; an error that it raises ends the wait. What is damaged is left to a worker, which
    renames it and computes its rows again.
    """
    if model_config.get("force_restart") or not model_config.get("enable_checkpointing", True):
        return None
    settings, results = read_settings(model_config), output_dir.parent
    model, sources = read_prepared(settings.model), _read_sources(index_path.parent)
    path = recipe_path(results / "recipes", settings.request, model)
    recipe = _find_recipe(path, settings, model, sources)
    if recipe is None or not _may_be_finished(recipe, rank, results, model_config, sources):
        return None
    shard = read_shard_index(index_path)
    if shard.rank != rank:
        # A worker refuses the index, and says why.
        return None
    base = results / "checkpoints" / checkpoint_key(recipe, shard)
    config = {"enable_checkpointing": True, "checkpoint_dir": base}
    with open_checkpoint(config, output_dir, rank, leave_if_asked, logger) as checkpoint:
        try:
            saved = _finish(checkpoint, model, recipe, shard, index_path, model_config)
            # Another worker may have resolved the recipe meanwhile.
            if saved and (publish_recipe(recipe, path) or read_recipe(path) == recipe):
                made = checkpoint.publish(saved.path, index_path, output_dir, shard.fingerprint)
                logger.info("all rows are there: no device was needed")
                return saved.status | {"shard_path": str(made)}
        except (FileFormatError, RecipeError) as error:
            logger.info("a device is needed: %s", error)
    return None


def _read_sources(folder: Path) -> Sources:
    with suppress(IndexFormatError):
        return read_sources(folder)
    return Sources()


def _find_recipe(
    path: Path, settings: WorkerSettings, model: PreparedModel, sources: Sources
) -> Recipe | None:
    """Return the dataset's recipe, if a worker on any device would come to it; else None.

    path: the recipe's file. If no worker has written it, and results hold all rows under one
    recipe, it is that recipe.
    """
    if not path.exists():
        return next(_complete(settings, model, sources), None)
    found = find_recipe(path)
    return found if found and settings.device in ("auto", found.device) else None


def _complete(settings: WorkerSettings, model: PreparedModel, sources: Sources) -> Iterator[Recipe]:
    """Yield the recipes under which all rows of the dataset are there, those of GPUs first."""
    usual = {"cpu": "fp32", "cuda": model.facts.half}
    recipes = sorted(sources.recipes.values(), key=lambda recipe: recipe.device == "cpu")
    for recipe in recipes:
        # The device may have been set anew since split looked for recipes.
        asked = settings.device in ("auto", recipe.device)
        asked &= settings.request.precision != "auto" or recipe.precision == usual[recipe.device]
        if asked and not any(sources.left[recipe.fingerprint]):
            yield recipe


def _may_be_finished(
    recipe: Recipe,
    rank: int,
    results: Path,
    model_config: Mapping[str, Any],
    sources: Sources,
) -> bool:
    """Whether it is worth while to read what may hold all rows of the shard.

    That is so if the shard was finished before, if split found all of its rows, or if there is a
    result that split has not seen.
    """
    name = recipe.fingerprint[:12]
    if any(results.glob(f"checkpoints/{name}-*/shard_{rank}/shard_{rank}.h5")):
        return True
    left = sources.left.get(recipe.fingerprint, ())
    if rank < len(left) and not left[rank]:
        return True
    stores = list_stores(results, model_config)
    paths = [store_path(store, recipe.fingerprint) for store in stores]
    known = {*(source.seal for source in sources.sources), *sources.passed_over}
    for path in [*paths, *expand_reuse(model_config.get("reuse", ()))]:
        with suppress(OSError, ShardError):
            if read_seal(path) not in known:
                return True
    return False


class _Saved(NamedTuple):
    """A finished shard in its checkpoint folder, and the status of its worker."""

    path: Path
    status: dict[str, Any]


def _finish(
    checkpoint: Checkpoint,
    model: PreparedModel,
    recipe: Recipe,
    shard: ShardIndex,
    index_path: Path,
    model_config: Mapping[str, Any],
) -> _Saved | None:
    """Write the shard to its checkpoint folder; None if a sequence has no row."""
    folder, logger, results = checkpoint.folder, checkpoint.logger, checkpoint.base.parents[1]
    check_same(earlier := read_manifest(folder), recipe, shard)
    checkpoint.join_files()
    ids, rows = read_finished(folder, logger)
    checkpoint.link_index(index_path, shard.fingerprint)
    checkpoint.remove_leftovers()
    taker = RowTaker(folder, shard.digests, ids, recipe.fingerprint, logger)
    taker.take(index_path, results, model_config)
    check_split(index_path, shard.fingerprint)
    quarantined, absent = read_failures(folder).quarantined, to_hex(shard.digests[taker.missing])
    if any(name not in quarantined for name in absent):
        return None
    budget = earlier.token_budget if earlier else TOKENS[recipe.device]
    names = join_names([earlier.device_name if earlier else "", *taker.device_names])
    write_manifest(folder, make_manifest(model, recipe, shard, budget, names))
    saved = assemble_shard(folder, shard.rank, [*ids], [] if rows is None else [rows])
    status = describe_success(shard.rank, saved, len(ids), taker, len(absent))
    return _Saved(saved, status | {"checkpointing_enabled": True, "device": "no device"})
