"""The facts that all models of a family share. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seqembed.errors import ModelError, list_all
from seqembed.models.architectures import (
    Ankh3Architecture,
    AnkhArchitecture,
    Architecture,
    DnabertArchitecture,
    Esm1bArchitecture,
    Esm2Architecture,
    EsmcArchitecture,
    ProstT5Architecture,
    ProtT5Architecture,
)
from seqembed.models.vocabularies import (
    ANKH,
    ANKH3,
    ESM,
    PROST_T5,
    PROT_T5,
    Specials,
    Vocabulary,
)
from seqembed.models.vocabularies import ESMC as ESMC_VOCABULARY

Molecule = Literal["protein", "DNA"]
Half = Literal["fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Facts that all models of a family share, as their authors state them.

    name: what {model}.json calls the family. models: what people call its models. vocabulary: of a
    model that makes one token of each residue; None if tokenizer.json makes tokens of any length.

    max_length: the length of the longest sequence in training, in tokens, special tokens not
    counted. reads_whole: whether longer sequences may go through the model in one piece.
    positions_end: no token after max_length has a position, so that the model cannot read it.

    pools_specials: whether the authors' mean includes the special tokens. has_cls: whether the
    first of them stands for the whole sequence, so that `pooling: cls` can take its row. half: the
    precision that `auto` means on a GPU. licence: that of the authors' weights, by its SPDX name.
    citation: the paper, by its DOI or arXiv number.
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
    has_cls: bool = True
    half: Half = "fp16"
    licence: str
    citation: str

    @property
    def specials(self) -> Specials:
        """How many special tokens stand around a sequence's own tokens."""
        # DNABERT's tokenizer.json is checked to put one token first and one last.
        return self.vocabulary.specials if self.vocabulary else Specials(1, 1)

    @property
    def reads_tokenizer(self) -> bool:
        """Whether a model's tokens are read from its tokenizer.json."""
        return not (self.vocabulary and self.vocabulary.tokens)

    @property
    def unit(self) -> str:
        """What messages call the tokens of a sequence."""
        return "residues" if self.molecule == "protein" else "tokens"

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
    # T5's distances have no end, and its authors embed sequences of any length. In training, a
    # sequence had 512 tokens, special ones included (n_positions in config.json).
    #
    # ProtT5's and ProstT5's authors compute in fp16 on a GPU (Embedding/prott5_embedder.py of
    # ProtTrans, the README of ProstT5), and publish weights in fp16. Ankh's compute in fp32: bf16
    # has its range.
    Family(
        name="prot_t5",
        models=("ProtT5",),
        molecule="protein",
        architecture=ProtT5Architecture,
        vocabulary=PROT_T5,
        max_length=511,
        reads_whole=True,
        has_cls=False,
        licence="AFL-3.0",
        citation="Elnaggar et al. 2021, doi:10.1109/TPAMI.2021.3095381",
    ),
    Family(
        name="prost_t5",
        models=("ProstT5",),
        molecule="protein",
        architecture=ProstT5Architecture,
        vocabulary=PROST_T5,
        max_length=510,
        reads_whole=True,
        has_cls=False,
        licence="MIT",
        citation="Heinzinger et al. 2024, doi:10.1093/nargab/lqae150",
    ),
    Family(
        name="ankh",
        models=("Ankh",),
        molecule="protein",
        architecture=AnkhArchitecture,
        vocabulary=ANKH,
        max_length=511,
        reads_whole=True,
        has_cls=False,
        half="bf16",
        licence="CC-BY-NC-SA-4.0",
        citation="Elnaggar et al. 2023, arXiv:2301.06568",
    ),
    Family(
        name="ankh3",
        models=("Ankh 3",),
        molecule="protein",
        architecture=Ankh3Architecture,
        vocabulary=ANKH3,
        max_length=510,
        reads_whole=True,
        has_cls=False,
        half="bf16",
        licence="CC-BY-NC-SA-4.0",
        citation="Alsamkary et al. 2025, arXiv:2505.20052",
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
    return list_all([name for family in _FAMILIES for name in family.models], word)
