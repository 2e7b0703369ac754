"""The recipe: what, with the weights, decides a row's numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError, RecipeError
from seqembed.files import publish_exclusively
from seqembed.flags import TRUNCATED
from seqembed.models.prepare import PreparedModel
from seqembed.precision import resolve_precision

FORMAT_VERSION = "1"
# Raised only when the same weights and settings give other numbers than before.
NUMERICS_VERSION = 1

Precision = Literal["fp32", "fp16"]
LongSequences = Literal["error", "truncate"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; `auto` is still open. Raises ConfigError for what it cannot be."""

    precision: Literal["auto"] | Precision
    long_sequences: LongSequences
    max_length: Literal["auto"] | int

    def __post_init__(self) -> None:
        _check_choice("precision", self.precision, ("auto", "fp32", "fp16"))
        _check_choice("long_sequences", self.long_sequences, ("error", "truncate"))
        whole = isinstance(self.max_length, int) and not isinstance(self.max_length, bool)
        if self.max_length != "auto" and not (whole and int(self.max_length) >= 1):
            message = f"max_length must be `auto` or a whole number from 1, not {self.max_length!r}"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is computed, every `auto` resolved. Equal recipes give equal rows.

    Raises ConfigError for what this program cannot compute.
    """

    weights: str
    tokenizer: str
    layer: int
    pooling: str
    precision: Precision
    storage: str
    long_sequences: LongSequences
    max_length: int
    numerics_version: int

    def __post_init__(self) -> None:
        _check_choice("precision", self.precision, ("fp32", "fp16"))
        _check_choice("long_sequences", self.long_sequences, ("error", "truncate"))

    @property
    def fingerprint(self) -> str:
        """64 hex characters, of content alone."""
        return _hash(self.fields())

    def fields(self) -> dict[str, str | int]:
        return asdict(self)

    def flags(self, lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
        """What is remarkable about rows of (n,) residues: (n,) uint8, TRUNCATED or 0."""
        return np.where(lengths > self.max_length, TRUNCATED, 0).astype(np.uint8)


def refuse_long(
    long_sequences: LongSequences,
    max_length: int,
    lengths: NDArray[np.int64],
    describe: Callable[[NDArray[np.int64]], list[str]] | None = None,
) -> None:
    """Raise ConfigError, with the count and the key, where `error` meets longer sequences.

    describe: gives the names of rows, of which the message tells the first three.
    """
    count = int((lengths > max_length).sum())
    if count and long_sequences == "error":
        first = describe(np.flatnonzero(lengths > max_length)[:3]) if describe else []
        names = f"; the first are {', '.join(first)}" if first else ""
        raise ConfigError(
            f"{count:,} of {len(lengths):,} sequences are longer than {max_length:,} residues "
            f"(the longest has {int(lengths.max()):,}){names}; to embed the first {max_length:,} "
            "residues of each, and have these rows flagged, set `embedding: {long_sequences: "
            "truncate}` (after --config: 'embedding={long_sequences: truncate}'); else take them "
            "out, or raise `embedding: {max_length: ...}`"
        )


def resolve_recipe(
    request: Request, model: PreparedModel, device: torch.device, environment: EnvConfig
) -> Recipe:
    """The recipe that this worker would follow; raises DeviceError where it cannot."""
    return Recipe(
        weights=model.fingerprint,
        tokenizer=model.tokenizer,
        layer=model.architecture.layers,
        pooling="mean",
        precision=resolve_precision(request.precision, device, environment),
        storage="float32",
        long_sequences=request.long_sequences,
        max_length=model.longest(request.max_length),
        numerics_version=NUMERICS_VERSION,
    )


def adopt_recipe(
    folder: Path,
    request: Request,
    model: PreparedModel,
    device: torch.device,
    environment: EnvConfig,
) -> Recipe:
    """The one recipe of all workers with this request: the first writes it, the others adopt it.

    Raises:
        RecipeError: the file is damaged, or names a field that this worker cannot follow.
        DeviceError: this device cannot compute what was asked for.
    """
    path = folder / f"{_request_key(request, model)}.json"
    own = resolve_recipe(request, model, device, environment)
    try:
        with publish_exclusively(path) as temporary:
            content = {"format_version": FORMAT_VERSION, "kind": "recipe"} | own.fields()
            temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    except FileExistsError:
        return _adopt(path, own, request, device, environment)
    return own


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; raises RecipeError unless it is whole and of a known version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION or content["kind"] != "recipe":
            raise ValueError(f"format version {content['format_version']} is not known")
        return Recipe(**{name: content[name] for name in Recipe.__dataclass_fields__})
    except (ConfigError, OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path}: damaged recipe ({error!r}); remove it and run again"
        raise RecipeError(message) from error


def _adopt(
    path: Path, own: Recipe, request: Request, device: torch.device, environment: EnvConfig
) -> Recipe:
    found = read_recipe(path)
    for name, value in own.fields().items():
        other = found.fields()[name]
        if other != value and not (name == "precision" and request.precision == "auto"):
            message = f"{path}: {name} is {other!r}, but this worker would use {value!r}; "
            raise RecipeError(message + "remove the file to start over with the new value")
    # Resolved by the first worker, perhaps on another device than ours.
    resolve_precision(found.precision, device, environment)
    return found


def _request_key(request: Request, model: PreparedModel) -> str:
    """Of the settings asked for, and of what no setting names: the weights and our numerics."""
    asked = asdict(request) | {
        "weights": model.fingerprint,
        "tokenizer": model.tokenizer,
        "numerics_version": NUMERICS_VERSION,
    }
    return _hash(asked)[:24]


def _hash(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
