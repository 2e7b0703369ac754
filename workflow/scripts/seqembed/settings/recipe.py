"""The recipe, which is everything that decides a row's numbers; its file and its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError, RecipeError
from seqembed.kernels.choice import PLAIN
from seqembed.models.prepared import PreparedModel
from seqembed.settings.lengths import LengthPolicy, resolve_policy
from seqembed.settings.precision import resolve_precision
from seqembed.settings.request import (
    LongSequences,
    Pooling,
    Precision,
    Request,
    Storage,
    check_choices,
)
from seqembed.storage.json_files import hash_json, read_json, write_json

FORMAT_VERSION = "1"
# Raised only if a new version of seqembed gives other numbers for the same weights and settings.
NUMERICS_VERSION = 1
# Settings that later versions added, each with the value that says what earlier versions did. A
# setting with this value is not hashed, so that the name of an older recipe's file stays the same.
LATER_KEYS = {"layer": "last", "pooling": "mean", "per_residue": False, "storage": "float32"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is computed, with every `auto` resolved; ConfigError for a value that is not allowed.

    weights: the hash of the weights and the model's sizes. tokenizer: PreparedModel.tokenizer.
    layer: the number of the layer whose rows are taken. max_length: the most tokens that the model
    reads at once, 0 if long_sequences is `full`. device: the type of device that computes. kernels:
    PLAIN or FUSED of kernels/choice.py. The others are settings, and NUMERICS_VERSION.
    """

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
    device: Literal["cpu", "cuda"] = "cpu"
    kernels: str = PLAIN

    def __post_init__(self) -> None:
        check_choices(self)
        # It checks max_length.
        LengthPolicy(long_sequences=self.long_sequences, max_length=self.max_length)

    @property
    def fingerprint(self) -> str:
        """The hash of fields(), 64 hex characters."""
        return hash_json(self.fields(), 32)

    def fields(self) -> dict[str, str | int]:
        """Return the fields by name, without those that older files lack and that say nothing.

        These are a false `per_residue`, and `device` and `kernels` of a CPU.
        """
        left_out = set() if self.per_residue else {"per_residue"}
        if self.device == "cpu":
            left_out |= {"device", "kernels"}
        return {k: v for k, v in asdict(self).items() if k not in left_out}


def adopt_recipe(
    folder: Path,
    request: Request,
    model: PreparedModel,
    device: torch.device,
    environment: EnvConfig,
    kernels: str = PLAIN,
) -> Recipe:
    """Return the recipe of this request and model from `folder`; write it there if it is missing.

    kernels: PLAIN or FUSED, the steps that this worker would take; a worker that would take the
    fused steps takes the plain ones if the recipe says so.

    The first worker resolves each `auto` for its model and device and writes the recipe's file; all
    other workers use that recipe, so that all rows of a dataset have the same. Raises RecipeError
    if the file is damaged, or if this worker would compute something else; DeviceError if the
    device cannot compute in the precision of the request or of the file; and ConfigError if the
    model lacks the asked layer, or the token that `pooling: cls` takes, or if fp16 is asked for and
    SEQEMBED_DISABLE_FP16 forbids it.
    """
    fixed: dict[str, Any] = {"weights": model.fingerprint, "tokenizer": model.tokenizer}
    fixed["numerics_version"] = NUMERICS_VERSION
    asked = {k: v for k, v in asdict(request).items() if v != LATER_KEYS.get(k, ...)}
    # The name of the file is a hash of all that decides its content.
    path = folder / f"{hash_json(asked | fixed, 32)[:24]}.json"
    model.check_pooling(request.pooling)
    policy = resolve_policy(request.long_sequences, request.max_length, model)
    precision = resolve_precision(request.precision, device, environment, model.facts.half)
    resolved: dict[str, Any] = {"layer": model.layer(request.layer), "precision": precision}
    resolved |= {"long_sequences": policy.long_sequences, "max_length": policy.max_length}
    resolved |= {"device": device.type, "kernels": kernels}
    own = Recipe(**fixed, **asdict(request) | resolved)
    try:
        write_json(path, "recipe", FORMAT_VERSION, own.fields(), exclusive=True)
        return own
    except FileExistsError:
        found = read_recipe(path)
    # The first worker may have resolved `precision: auto` on another device than this worker's.
    same = replace(own, precision=found.precision) if request.precision == "auto" else own
    same = replace(same, kernels=PLAIN) if found.kernels == PLAIN else same
    for name, value in asdict(same).items():
        if (other := getattr(found, name)) != value:
            message = f"{path}: {name} is {other!r}, but this worker would use {value!r}"
            advice = f"to compute all rows with {name} {value!r}, remove the file and run again"
            raise RecipeError(f"{message}; {advice}")
    resolve_precision(found.precision, device, environment, model.facts.half)
    return found


def read_recipe(path: Path) -> Recipe:
    """Return the recipe of a file; raises RecipeError if the file is damaged or cannot be read."""
    try:
        return pick_recipe(read_json(path, "recipe", FORMAT_VERSION))
    except (ConfigError, OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path}: the recipe is damaged ({error!r}); remove the file and run again"
        raise RecipeError(message) from error


def pick_recipe(content: Mapping[str, Any]) -> Recipe:
    """Return the recipe whose fields are keys of `content`; other keys are ignored.

    Raises TypeError if a key is missing, and ConfigError for a value that is not allowed.
    """
    return Recipe(**{k: v for k, v in content.items() if k in Recipe.__dataclass_fields__})
