"""The recipe, which is everything that decides a row's numbers; its file and its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from seqembed.errors import ConfigError, RecipeError
from seqembed.kernels.names import PLAIN
from seqembed.models.prepared import PreparedModel
from seqembed.settings.lengths import LengthPolicy, resolve_policy
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


def recipe_path(folder: Path, request: Request, model: PreparedModel) -> Path:
    """Return the path of the recipe's file; its name is a hash of all that decides its content."""
    asked = {k: v for k, v in asdict(request).items() if v != LATER_KEYS.get(k, ...)}
    return folder / f"{hash_json(asked | _fixed(model), 32)[:24]}.json"


def resolve_fields(request: Request, model: PreparedModel) -> dict[str, Any]:
    """Return the fields that every recipe of this request and model has, on any device.

    `precision` is among them unless it is auto; `device` and `kernels` never are. Raises
    ConfigError if the model lacks the asked layer, or the token that `pooling: cls` takes, or has
    no positions for the asked max_length.
    """
    model.check_pooling(request.pooling)
    policy = resolve_policy(request.long_sequences, request.max_length, model)
    resolved: dict[str, Any] = {"layer": model.layer(request.layer)}
    resolved |= {"long_sequences": policy.long_sequences, "max_length": policy.max_length}
    fields = _fixed(model) | asdict(request) | resolved
    if request.precision == "auto":
        del fields["precision"]
    return fields


def _fixed(model: PreparedModel) -> dict[str, Any]:
    fixed = {"weights": model.fingerprint, "tokenizer": model.tokenizer}
    return {**fixed, "numerics_version": NUMERICS_VERSION}


def find_difference(recipe: Recipe, fields: Mapping[str, Any], source: str) -> str | None:
    """Return in words the first field of a recipe that is not as in `fields`; None: all agree.

    source: what the values of `fields` are of, for the text.
    """
    for name, value in fields.items():
        if (found := getattr(recipe, name)) != value:
            return f"{name} is {found!r}, and {value!r} in {source}"
    return None


def publish_recipe(recipe: Recipe, path: Path) -> bool:
    """Write a recipe's file, and return True; return False if there is a file already."""
    try:
        write_json(path, "recipe", FORMAT_VERSION, recipe.fields(), exclusive=True)
        return True
    except FileExistsError:
        return False


def read_recipe(path: Path) -> Recipe:
    """Return the recipe of a file; raises RecipeError if the file is damaged or cannot be read."""
    try:
        return pick_recipe(read_json(path, "recipe", FORMAT_VERSION))
    except (ConfigError, OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path}: the recipe is damaged ({error!r}); remove the file and run again"
        raise RecipeError(message) from error


def find_recipe(path: Path) -> Recipe | None:
    """Return the recipe of a file; None if it is missing or damaged."""
    with suppress(RecipeError):
        return read_recipe(path)
    return None


def pick_recipe(content: Mapping[str, Any]) -> Recipe:
    """Return the recipe whose fields are keys of `content`; other keys are ignored.

    Raises TypeError if a key is missing, and ConfigError for a value that is not allowed.
    """
    return Recipe(**{k: v for k, v in content.items() if k in Recipe.__dataclass_fields__})
