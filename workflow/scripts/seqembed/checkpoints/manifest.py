"""The manifest of a checkpoint: the recipe and the shard that its blocks belong to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from seqembed.checkpoints.blocks import DAMAGE
from seqembed.errors import CheckpointError
from seqembed.storage.json_files import read_json, write_json

FORMAT_VERSION = "1"
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """The recipe and the shard of a checkpoint, and the token budget of its batch plan.

    Fingerprints and weights_sha256: hex. model: the model's name. width: D, the number of values of
    a row. recipe: the recipe's fields. Raises CheckpointError if the token budget is not an int of
    at least 1.
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
            found = f"token_budget is {self.token_budget!r}"
            raise CheckpointError(f"{found}, not a whole number of at least 1")


def write_manifest(folder: Path, manifest: CheckpointManifest) -> None:
    """Write `manifest.json` in `folder` durably."""
    write_json(folder / MANIFEST, "checkpoint", FORMAT_VERSION, asdict(manifest))


def read_manifest(folder: Path) -> CheckpointManifest | None:
    """Read `manifest.json` in `folder`; return None if the file is missing.

    Raises CheckpointError if the file is damaged.
    """
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
