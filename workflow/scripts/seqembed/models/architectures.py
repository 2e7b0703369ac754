"""The sizes of a model, by family. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from seqembed.errors import ModelError

# What a field's value must be, by the field's type, in the words of messages.
_FIELDS = {
    "int": "a whole number above 0",
    "float": "a number above 0",
    "bool": "true or false",
    "str": "a word",
}


# How many queries attend at once if attention has biases, by the plain steps. The biases of all
# queries would need memory that is quadratic in a sequence's length.
BIASED_QUERIES = 256


@dataclass(frozen=True)
class Architecture:
    """The sizes that models of every family have; raises ModelError if they do not fit together.

    width: the length of a token's row. ffn_width: the width of the feed-forward part of a layer.
    rotary: whether positions are rotary, which turn values in pairs: head_dim must then be even.
    biased: whether attention adds biases by distance.
    """

    layers: int
    width: int
    heads: int
    ffn_width: int
    rotary: ClassVar[bool] = False
    biased: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if type(value).__name__ != kind or not (kind in ("bool", "str") or value > 0):
                found = f"{field.name} must be {_FIELDS[kind]}, not {value!r}"
                raise ModelError(f"{found}; take the authors' settings")
        self._check_heads()

    def _check_heads(self) -> None:
        if self.width % (2 * self.heads if self.rotary else self.heads):
            multiple = "an even multiple" if self.rotary else "a multiple"
            message = f"width is {self.width}, which is not {multiple} of the"
            raise ModelError(f"{message} {self.heads} attention heads; take the authors' settings")

    @property
    def head_dim(self) -> int:
        """The number of a row's values that one attention head reads."""
        return self.width // self.heads

    @property
    def ffn_vectors(self) -> int:
        """How many vectors of ffn_width a token has at once while its feed-forward part runs."""
        return 2


@dataclass(frozen=True)
class Esm2Architecture(Architecture):
    """The sizes of an ESM-2; token_dropout: whether TOKEN_DROPOUT_SCALE scales embeddings."""

    token_dropout: bool = True
    layer_norm_eps: float = 1e-5
    rotary: ClassVar[bool] = True


@dataclass(frozen=True)
class Esm1bArchitecture(Architecture):
    """The sizes of an ESM-1b or ESM-1v.

    embedding_norm: whether a LayerNorm follows the embedding, as in ESM-1b. token_dropout: as in
    Esm2Architecture.
    """

    embedding_norm: bool
    token_dropout: bool = True
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True)
class EsmcArchitecture(Architecture):
    """The sizes of an ESM C."""

    rotary: ClassVar[bool] = True

    @property
    def ffn_vectors(self) -> int:
        return 3


@dataclass(frozen=True)
class DnabertArchitecture(Architecture):
    """The sizes of a DNABERT-S or DNABERT-2; vocabulary: the number of tokens."""

    vocabulary: int
    layer_norm_eps: float = 1e-12
    biased: ClassVar[bool] = True

    @property
    def ffn_vectors(self) -> int:
        return 3


# What a T5's config.json calls the activation in feed_forward_proj, and in dense_act_fn. The gated
# ones multiply it by a second vector.
T5_ACTIVATIONS = {"relu": "relu", "gated-gelu": "gelu_new", "gated-silu": "silu"}


@dataclass(frozen=True)
class T5Architecture(Architecture):
    """The sizes of the encoder of a T5.

    head_width: head_dim, which does not follow from the width. activation: one of T5_ACTIVATIONS.
    buckets: the number of buckets that distances of query and key are put in; attention adds a bias
    by bucket. max_distance: all distances from this one on are in one bucket. vocabulary: the
    number of tokens.
    """

    head_width: int
    activation: str
    buckets: int
    max_distance: int
    vocabulary: int
    layer_norm_eps: float = 1e-6
    biased: ClassVar[bool] = True

    def _check_heads(self) -> None:
        if self.activation not in T5_ACTIVATIONS:
            known = ", ".join(T5_ACTIVATIONS)
            message = f"feed_forward_proj must be one of {known}, not {self.activation!r}"
            raise ModelError(f"{message}; take the authors' settings")
        # Half of the buckets are for distances in one direction, and half of these hold one each.
        if self.buckets < 4 or self.max_distance <= self.buckets // 4:
            names = "relative_attention_num_buckets must be at least 4, and "
            names += "relative_attention_max_distance over a quarter of it"
            message = f"{names}, not {self.buckets} and {self.max_distance}"
            raise ModelError(f"{message}; take the authors' settings")

    @property
    def head_dim(self) -> int:
        return self.head_width

    @property
    def gated(self) -> bool:
        """Whether the feed-forward part multiplies two vectors of ffn_width."""
        return self.activation != "relu"

    @property
    def ffn_vectors(self) -> int:
        # relu is computed in place.
        return 3 if self.gated else 1


@dataclass(frozen=True)
class ProtT5Architecture(T5Architecture):
    """The sizes of a ProtT5."""


@dataclass(frozen=True)
class ProstT5Architecture(T5Architecture):
    """The sizes of a ProstT5."""


@dataclass(frozen=True)
class AnkhArchitecture(T5Architecture):
    """The sizes of an Ankh or Ankh 2."""


@dataclass(frozen=True)
class Ankh3Architecture(T5Architecture):
    """The sizes of an Ankh 3."""


def block_rows(width: int, itemsize: int) -> int:
    """Return how many rows each matrix product has on a GPU; itemsize: the bytes of a value.

    A product of another number of rows may be computed by another kernel, which gives other last
    bits. So the number is a constant for a model's width and precision: it follows neither the
    memory nor the token budget. On an H200, ESM-2 650M is as fast with 16,384 rows as with 65,536,
    and 10% slower with 3,600.
    """
    if itemsize == 4:
        return 4096
    return 16384 if width <= 1280 else 8192
