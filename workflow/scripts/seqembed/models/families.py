"""The sizes of a model, and the facts that all models of its family share. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from seqembed.errors import ModelError
from seqembed.models.source import TOKENIZER

Molecule = Literal["protein", "DNA"]
# What a field's value must be, by the field's type, in the words of messages.
_FIELDS = {
    "int": "a whole number above 0",
    "float": "a number above 0",
    "bool": "true or false",
}


@dataclass(frozen=True)
class Architecture:
    """The sizes that models of every family have; raises ModelError if they do not fit together.

    width: the length of a token's row. ffn_width: the width of the feed-forward part of a layer.
    rotary: whether positions are rotary, which turn values in pairs: head_dim must then be even.
    """

    layers: int
    width: int
    heads: int
    ffn_width: int
    rotary: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if type(value).__name__ != kind or not (kind == "bool" or value > 0):
                raise ModelError(f"{field.name} must be {_FIELDS[kind]}, not {value!r}")
        if self.width % (2 * self.heads if self.rotary else self.heads):
            multiple = "an even multiple" if self.rotary else "a multiple"
            message = f"width (hidden_size) is {self.width}, which is not {multiple} of the"
            raise ModelError(f"{message} {self.heads} attention heads; take the authors' settings")

    @property
    def head_dim(self) -> int:
        """The number of a row's values that one attention head reads."""
        return self.width // self.heads


@dataclass(frozen=True)
class Esm2Architecture(Architecture):
    """The sizes of an ESM-2; token_dropout: whether TOKEN_DROPOUT_SCALE scales embeddings."""

    token_dropout: bool = True
    layer_norm_eps: float = 1e-5
    rotary: ClassVar[bool] = True


@dataclass(frozen=True)
class DnabertArchitecture(Architecture):
    """The sizes of a DNABERT-S or DNABERT-2; vocabulary: the number of tokens."""

    vocabulary: int
    layer_norm_eps: float = 1e-12


@dataclass(frozen=True, kw_only=True)
class Family:
    """Facts that all models of a family share, as their authors state them.

    max_length: the length of the longest sequence in training, in tokens, special tokens not
    counted. reads_whole: whether longer sequences may go through the model in one piece.
    pools_specials: whether the authors' mean includes the special tokens. tokenizer: the name of
    the tokenizer's file in a model's folder; None if the tokenizer is built in.
    """

    name: str
    molecule: Molecule
    architecture: type[Architecture]
    max_length: int
    reads_whole: bool
    pools_specials: bool
    tokenizer: str | None


# ESM-2 was trained on crops of 1,024 tokens, BOS and EOS included (Lin et al. 2023,
# doi:10.1126/science.ade2574).
ESM2 = Family(
    name="esm2",
    molecule="protein",
    architecture=Esm2Architecture,
    max_length=1022,
    reads_whole=False,
    pools_specials=False,
    tokenizer=None,
)
# DNABERT-S's tokenizer.json cuts at 2,000 tokens, [CLS] and [SEP] included; its authors' README
# takes the mean of all of them (Zhou et al. 2024, arXiv:2402.08777).
DNABERT_S = Family(
    name="dnabert_s",
    molecule="DNA",
    architecture=DnabertArchitecture,
    max_length=1998,
    reads_whole=True,
    pools_specials=True,
    tokenizer=TOKENIZER,
)
FAMILIES = {family.name: family for family in (ESM2, DNABERT_S)}


def find_family(name: object) -> Family:
    """Return the family of this name; raise ModelError if no family has the name."""
    if name not in FAMILIES:
        raise ModelError(f"{name!r} is not one of the families {', '.join(FAMILIES)}")
    return FAMILIES[str(name)]
