"""The sizes that tell one model of a family from another; no PyTorch is needed to read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seqembed.errors import ModelError


@dataclass(frozen=True)
class Esm2Architecture:
    """An ESM-2's sizes; raises ModelError if they do not fit."""

    layers: int
    width: int
    heads: int
    ffn_width: int
    token_dropout: bool = True
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _check_sizes(self, ("layers", "width", "heads", "ffn_width"))
        if self.width % (2 * self.heads):
            raise ModelError(f"width {self.width} is not an even multiple of {self.heads} heads")
        if not isinstance(self.token_dropout, bool):
            raise ModelError(f"token_dropout must be true or false, not {self.token_dropout!r}")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class DnabertArchitecture:
    """A DNABERT-S's or DNABERT-2's sizes; raises ModelError if they do not fit."""

    layers: int
    width: int
    heads: int
    ffn_width: int
    vocabulary: int
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        _check_sizes(self, ("layers", "width", "heads", "ffn_width", "vocabulary"))
        if self.width % self.heads:
            raise ModelError(f"width {self.width} is no multiple of {self.heads} heads")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


Architecture = Esm2Architecture | DnabertArchitecture


def _check_sizes(architecture: Any, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(architecture, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{name} must be a positive whole number, not {value!r}")
    eps = architecture.layer_norm_eps
    if not isinstance(eps, float) or not eps > 0:
        raise ModelError(f"layer_norm_eps must be positive, not {eps!r}")
