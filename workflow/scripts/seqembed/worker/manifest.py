"""The name and the manifest of a shard's checkpoint; no PyTorch is needed."""

from __future__ import annotations

from seqembed.checkpoints.manifest_and_failures import CheckpointManifest
from seqembed.errors import CheckpointError
from seqembed.index.reader import ShardIndex
from seqembed.models.prepared import PreparedModel
from seqembed.settings.recipe import Recipe


def checkpoint_key(recipe: Recipe, shard: ShardIndex) -> str:
    """Return the name of the folder in `checkpoints/` for a recipe and a shard."""
    return f"{recipe.fingerprint[:12]}-{shard.fingerprint[:12]}"


def check_same(earlier: CheckpointManifest | None, recipe: Recipe, shard: ShardIndex) -> None:
    """Raise CheckpointError if the earlier manifest is not of this recipe and shard."""
    mine = (recipe.fingerprint, shard.fingerprint)
    if earlier and (earlier.recipe_fingerprint, earlier.shard_fingerprint) != mine:
        message = f"checkpoints/{checkpoint_key(recipe, shard)}: holds rows of another recipe or"
        raise CheckpointError(f"{message} shard; remove that folder and run again")


def make_manifest(
    model: PreparedModel,
    recipe: Recipe,
    shard: ShardIndex,
    token_budget: int,
    device_name: str,
) -> CheckpointManifest:
    """Return a manifest; device_name: the GPUs that computed the shard's rows, "" for a CPU."""
    return CheckpointManifest(
        rank=shard.rank,
        world_size=shard.world_size,
        recipe_fingerprint=recipe.fingerprint,
        shard_fingerprint=shard.fingerprint,
        token_budget=token_budget,
        model=model.name,
        weights_sha256=model.sha256,
        width=model.architecture.width,
        recipe=recipe.fields(),
        device_name=device_name,
        licence=model.facts.licence if model.facts.non_commercial else "",
    )
