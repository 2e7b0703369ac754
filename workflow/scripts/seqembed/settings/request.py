"""What the user asks to be computed; no PyTorch is needed to check it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from seqembed.errors import ConfigError
from seqembed.settings.lengths import LongSequences

Pooling = Literal["mean", "cls", "max"]
Precision = Literal["fp32", "fp16", "bf16"]
AskedPrecision = Literal["auto"] | Precision
Storage = Literal["float32", "float16"]
AskedLongSequences = Literal["auto"] | LongSequences


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; `auto` is still open. Raises ConfigError for what it cannot be."""

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
        _check_whole("layer", self.layer, "last", 0)
        _check_whole("max_length", self.max_length, "auto", 1)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ConfigError, naming the choices, for a value that is none of them."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _check_whole(name: str, value: Any, word: str, minimum: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value != word and not (whole and value >= minimum):
        raise ConfigError(
            f"{name} must be `{word}` or a whole number from {minimum}, not {value!r}"
        )
