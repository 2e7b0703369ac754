"""The name and the manifest of a shard's checkpoint; no PyTorch is needed."""

from __future__ import annotations

from seqembed.checkpoints.manifest_and_failures import CheckpointManifest
from seqembed.index.reader import ShardIndex
from seqembed.models.prepared import PreparedModel
from seqembed.settings.recipe import Recipe


def checkpoint_key(recipe: Recipe, shard: ShardIndex) -> str:
    """Return the name of the folder in `checkpoints/` for a recipe and a shard."""
    return f"{recipe.fingerprint[:12]}-{shard.fingerprint[:12]}"


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
