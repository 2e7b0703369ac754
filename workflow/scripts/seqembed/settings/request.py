"""The settings that reach a worker: what it computes, and how; checked without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from seqembed.errors import ConfigError

Pooling = Literal["mean", "cls", "max"]
Precision = Literal["fp32", "fp16", "bf16"]
AskedPrecision = Literal["auto"] | Precision
Storage = Literal["float32", "float16"]
LongSequences = Literal["window", "truncate", "full", "error"]
AskedLongSequences = Literal["auto"] | LongSequences
# The schema has the same limit: no sequence is so long, and sums of lengths stay exact.
LARGEST = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to compute, as the user asked for it. Raises ConfigError for an impossible value."""

    layer: Literal["last"] | int
    pooling: Pooling
    per_residue: bool
    precision: AskedPrecision
    storage: Storage
    long_sequences: AskedLongSequences
    max_length: Literal["auto"] | int

    def __post_init__(self) -> None:
        check_choice("pooling", self.pooling, get_args(Pooling))
        check_choice("storage", self.storage, get_args(Storage))
        check_choice("precision", self.precision, ("auto", *get_args(Precision)))
        check_choice("long_sequences", self.long_sequences, ("auto", *get_args(LongSequences)))
        if not isinstance(self.per_residue, bool):
            raise ConfigError(f"per_residue must be true or false, not {self.per_residue!r}")
        check_whole("layer", self.layer, 0, "last")
        check_whole("max_length", self.max_length, 1, "auto")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What a worker computes, and how. Raises ConfigError for an impossible value.

    model: the JSON file that prepare_model wrote. token_budget: the most tokens of a batch.
    threads: how many of the CPU.
    """

    model: Path
    request: Request
    device: Literal["auto", "cuda", "cpu"]
    token_budget: Literal["auto"] | int
    threads: int

    def __post_init__(self) -> None:
        check_choice("device", self.device, ("auto", "cuda", "cpu"))
        check_whole("token_budget", self.token_budget, 1, "auto")
        check_whole("threads", self.threads, 1)


def read_settings(model_config: Mapping[str, Any]) -> WorkerSettings:
    """Read the plain dict that a worker is given; raises ConfigError that names a wrong key."""
    try:
        return WorkerSettings(
            model=Path(model_config["model"]),
            request=Request(**model_config["embedding"]),
            device=model_config["device"],
            token_budget=model_config["token_budget"],
            threads=model_config["threads"],
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"model_config lacks or misnames a setting: {error}") from error


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ConfigError, naming the choices, unless the value is one of them."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def check_whole(name: str, value: Any, minimum: int, *words: str) -> None:
    """Raise ConfigError unless the value is an int from `minimum` to LARGEST, or a word."""
    if value not in words and not (type(value) is int and minimum <= value <= LARGEST):
        allowed = " or ".join([*words, f"a whole number from {minimum} to {LARGEST:,}"])
        raise ConfigError(f"{name} must be {allowed}, not {value!r}")
