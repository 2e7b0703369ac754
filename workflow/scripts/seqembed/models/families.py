"""The sizes of a model, and the facts that all models of its family share. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from seqembed.errors import ModelError
from seqembed.models.vocabularies import ESM, Specials, Vocabulary
from seqembed.models.vocabularies import ESMC as ESMC_VOCABULARY

Molecule = Literal["protein", "DNA"]
Half = Literal["fp16", "bf16"]
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
    gated: whether the feed-forward part multiplies two vectors of ffn_width.
    """

    layers: int
    width: int
    heads: int
    ffn_width: int
    rotary: ClassVar[bool] = False
    gated: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if type(value).__name__ != kind or not (kind == "bool" or value > 0):
                raise ModelError(f"{field.name} must be {_FIELDS[kind]}, not {value!r}")
        if self.width % (2 * self.heads if self.rotary else self.heads):
            multiple = "an even multiple" if self.rotary else "a multiple"
            message = f"width is {self.width}, which is not {multiple} of the"
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
    gated: ClassVar[bool] = True


@dataclass(frozen=True)
class DnabertArchitecture(Architecture):
    """The sizes of a DNABERT-S or DNABERT-2; vocabulary: the number of tokens."""

    vocabulary: int
    layer_norm_eps: float = 1e-12
    gated: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Family:
    """Facts that all models of a family share, as their authors state them.

    name: what {model}.json calls the family. models: what people call its models. vocabulary: the
    one that is built in; None if the tokenizer is a file in a model's folder, tokenizer.json.

    max_length: the length of the longest sequence in training, in tokens, special tokens not
    counted. reads_whole: whether longer sequences may go through the model in one piece.
    positions_end: no token after max_length has a position, so that the model cannot read it.

    pools_specials: whether the authors' mean includes the special tokens. half: the precision that
    `auto` means on a GPU: bf16 if the authors compute in it. licence: that of the authors' weights,
    by its SPDX name. citation: the paper, by its DOI or arXiv number.
    """

    name: str
    models: tuple[str, ...]
    molecule: Molecule
    architecture: type[Architecture]
    vocabulary: Vocabulary | None
    max_length: int
    reads_whole: bool = False
    positions_end: bool = False
    pools_specials: bool = False
    half: Half = "fp16"
    licence: str
    citation: str

    @property
    def specials(self) -> Specials:
        """How many special tokens stand around a sequence's own tokens."""
        # A tokenizer's file is checked to put one token first and one last.
        return self.vocabulary.specials if self.vocabulary else Specials(1, 1)

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use."""
        return "-NC" in self.licence


_FAMILIES = (
    # ESM-2 was trained on crops of 1,024 tokens, BOS and EOS included (Lin et
    # al. 2023).
    Family(
        name="esm2",
        models=("ESM-2",),
        molecule="protein",
        architecture=Esm2Architecture,
        vocabulary=ESM,
        max_length=1022,
        licence="MIT",
        citation="Lin et al. 2023, doi:10.1126/science.ade2574",
    ),
    # The table of positions has 1,026 rows, of which a sequence of 1,022 residues takes the last
    # 1,024 (esm/modules.py of fair-esm, LearnedPositionalEmbedding).
    Family(
        name="esm1b",
        models=("ESM-1b", "ESM-1v"),
        molecule="protein",
        architecture=Esm1bArchitecture,
        vocabulary=ESM,
        max_length=1022,
        positions_end=True,
        licence="MIT",
        citation="Rives et al. 2021, doi:10.1073/pnas.2016239118 (ESM-1b); "
        "Meier et al. 2021, doi:10.1101/2021.07.09.450648 (ESM-1v)",
    ),
    # ESM C's config.json has 2,048 positions, <cls> and <eos> included; its authors compute in bf16
    # on a GPU (esm/pretrained.py of their package). Its weights have been under MIT since May 2026.
    Family(
        name="esmc",
        models=("ESM C",),
        molecule="protein",
        architecture=EsmcArchitecture,
        vocabulary=ESMC_VOCABULARY,
        max_length=2046,
        half="bf16",
        licence="MIT",
        citation="Candido et al. 2026, doi:10.5281/zenodo.14219303",
    ),
    # DNABERT-S's tokenizer.json cuts at 2,000 tokens, [CLS] and [SEP] included; its authors' README
    # takes the mean of all of them.
    Family(
        name="dnabert_s",
        models=("DNABERT-S", "DNABERT-2"),
        molecule="DNA",
        architecture=DnabertArchitecture,
        vocabulary=None,
        max_length=1998,
        reads_whole=True,
        pools_specials=True,
        licence="Apache-2.0",
        citation="Zhou et al. 2024, arXiv:2402.08777 (DNABERT-S); "
        "Zhou et al. 2023, arXiv:2306.15006 (DNABERT-2)",
    ),
)
FAMILIES = {family.name: family for family in _FAMILIES}


def find_family(name: object) -> Family:
    """Return the family of this name; raise ModelError if no family has the name."""
    if name not in FAMILIES:
        raise ModelError(f"{name!r} is not one of the families {', '.join(FAMILIES)}")
    return FAMILIES[str(name)]


def list_models(word: str) -> str:
    """Return what people call the models of all families, the last after `word`."""
    *others, last = (name for family in _FAMILIES for name in family.models)
    return f"{', '.join(others)} {word} {last}"
