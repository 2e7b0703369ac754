"""The settings that reach a worker: what to compute, and how; checked without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from seqembed.errors import ConfigError

Pooling = Literal["mean", "cls", "max"]
Precision = Literal["fp32", "fp16", "bf16"]
AskedPrecision = Literal["auto", Precision]
Storage = Literal["float32", "float16"]
LongSequences = Literal["window", "truncate", "full", "error"]
AskedLongSequences = Literal["auto", LongSequences]
# As in the schema: no sequence is longer, and sums of lengths stay exact.
LARGEST = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Request:
    """The setting `embedding` without invalid_residues; ConfigError for a value not allowed."""

    layer: Literal["last"] | int
    pooling: Pooling
    per_residue: bool
    precision: AskedPrecision
    storage: Storage
    long_sequences: AskedLongSequences
    max_length: Literal["auto"] | int

    def __post_init__(self) -> None:
        check_choices(self)
        if not isinstance(self.per_residue, bool):
            raise ConfigError(f"per_residue must be true or false, not {self.per_residue!r}")
        check_whole("layer", self.layer, 0, "last")
        check_whole("max_length", self.max_length, 1, "auto")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What a worker computes, and how; raises ConfigError for a value that is not allowed.

    model: the path of the JSON file that prepare_model wrote. token_budget: the most tokens of a
    batch, or auto. threads: how many CPU threads the worker uses.
    """

    model: Path
    request: Request
    device: Literal["auto", "cuda", "cpu"]
    token_budget: Literal["auto"] | int
    threads: int

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole("token_budget", self.token_budget, 1, "auto")
        check_whole("threads", self.threads, 1)


def read_settings(model_config: Mapping[str, Any]) -> WorkerSettings:
    """Return the settings in gpu_worker's model_config; ConfigError for a bad or missing key."""
    try:
        model, request = Path(model_config["model"]), Request(**model_config["embedding"])
        rest = {name: model_config[name] for name in ("device", "token_budget", "threads")}
        return WorkerSettings(model=model, request=request, **rest)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"model_config: a key is missing or not known: {error}") from error


def check_choices(settings: Any) -> None:
    """Raise ConfigError if a dataclass's Literal field has a value that its type does not list."""
    for name, kind in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ConfigError(f"{name} must be one of {', '.join(get_args(kind))}, not {value!r}")


def check_whole(name: str, value: Any, minimum: int, *words: str) -> None:
    """Raise ConfigError unless the value is an int from `minimum` to LARGEST or one of `words`."""
    if value not in words and not (type(value) is int and minimum <= value <= LARGEST):
        allowed = " or ".join([*words, f"a whole number from {minimum} to {LARGEST:,}"])
        raise ConfigError(f"{name} must be {allowed}, not {value!r}")
