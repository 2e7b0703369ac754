"""The recipe: all that decides a row's numbers; its file and its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError, RecipeError
from seqembed.models.prepared import PreparedModel
from seqembed.settings.lengths import LengthPolicy, resolve_policy
from seqembed.settings.precision import resolve_precision
from seqembed.settings.request import (
    LongSequences,
    Pooling,
    Precision,
    Request,
    Storage,
    check_choice,
)
from seqembed.storage.json_files import hash_json, read_json, write_json

FORMAT_VERSION = "1"
# Raised only when the same weights and settings give other numbers than before.
NUMERICS_VERSION = 1
# Keys that later versions added, with what earlier versions did: at these values they are not
# hashed, so that the name of a recipe's file never changes.
LATER_KEYS = {"layer": "last", "pooling": "mean", "per_residue": False, "storage": "float32"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is computed, every `auto` resolved. Raises ConfigError for an impossible value."""

    weights: str
    tokenizer: str
    layer: int
    pooling: Pooling
    precision: Precision
    storage: Storage
    long_sequences: LongSequences
    max_length: int
    numerics_version: int
    per_residue: bool = False

    def __post_init__(self) -> None:
        check_choice("pooling", self.pooling, get_args(Pooling))
        check_choice("storage", self.storage, get_args(Storage))
        check_choice("precision", self.precision, get_args(Precision))
        # A LengthPolicy checks itself.
        _ = self.policy

    @property
    def fingerprint(self) -> str:
        """The hash of the recipe's fields, 64 hex characters."""
        return hash_json(self.fields(), 32)

    @property
    def policy(self) -> LengthPolicy:
        """What to do with long sequences."""
        return LengthPolicy(long_sequences=self.long_sequences, max_length=self.max_length)

    def fields(self) -> dict[str, str | int]:
        """Return the fields by name, without `per_residue` where that is false."""
        return {k: v for k, v in asdict(self).items() if k != "per_residue" or v}


def resolve_recipe(
    request: Request, model: PreparedModel, device: torch.device, environment: EnvConfig
) -> Recipe:
    """Return the recipe of a request for this worker's model and device.

    Raises DeviceError if the device lacks the precision, ConfigError if the model lacks the layer.
    """
    policy = resolve_policy(request.long_sequences, request.max_length, model)
    return Recipe(
        weights=model.fingerprint,
        tokenizer=model.tokenizer,
        layer=model.layer(request.layer),
        pooling=request.pooling,
        per_residue=request.per_residue,
        precision=resolve_precision(request.precision, device, environment),
        storage=request.storage,
        long_sequences=policy.long_sequences,
        max_length=policy.max_length,
        numerics_version=NUMERICS_VERSION,
    )


def adopt_recipe(
    folder: Path,
    request: Request,
    model: PreparedModel,
    device: torch.device,
    environment: EnvConfig,
) -> Recipe:
    """Return the one recipe of all workers with this request, written by the first of them.

    Raises RecipeError if the file is damaged, or this worker would compute something else;
    DeviceError if this device cannot compute in the recipe's precision.
    """
    path = folder / f"{_request_key(request, model)}.json"
    own = resolve_recipe(request, model, device, environment)
    try:
        write_json(path, "recipe", FORMAT_VERSION, own.fields(), exclusive=True)
        return own
    except FileExistsError:
        found = read_recipe(path)
    # `auto` was resolved by the first worker, perhaps on another device than this one.
    same = replace(own, precision=found.precision) if request.precision == "auto" else own
    for name, value in asdict(same).items():
        if (other := getattr(found, name)) != value:
            message = f"{path}: {name} is {other!r}, but this worker would use {value!r}; "
            raise RecipeError(message + "remove the file to start over with the new value")
    resolve_precision(found.precision, device, environment)
    return found


def read_recipe(path: Path) -> Recipe:
    """Read a recipe's file; raises RecipeError if it is damaged or of an unknown version."""
    try:
        return pick_recipe(read_json(path, "recipe", FORMAT_VERSION))
    except (ConfigError, OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path}: damaged recipe ({error!r}); remove it and run again"
        raise RecipeError(message) from error


def pick_recipe(content: Mapping[str, Any]) -> Recipe:
    """Return the recipe among other keys; TypeError if a key is missing, else as Recipe raises."""
    return Recipe(
        **{name: content[name] for name in Recipe.__dataclass_fields__ if name in content}
    )


def _request_key(request: Request, model: PreparedModel) -> str:
    """Return a hash of the settings asked for, the weights, the tokenizer and the numerics."""
    asked = {k: v for k, v in asdict(request).items() if v != LATER_KEYS.get(k, ...)}
    model_keys = {"weights": model.fingerprint, "tokenizer": model.tokenizer}
    return hash_json(asked | model_keys | {"numerics_version": NUMERICS_VERSION}, 32)[:24]
