"""The families of models, and what is true of every model of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seqembed.models.architecture import DnabertArchitecture, Esm2Architecture

Molecule = Literal["protein", "DNA"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What its models read, and how their authors use them.

    max_length: tokens without specials that a model is trained on at once. reads_whole: there is
    no position limit, so that a longer sequence may be read at once. pools_specials: the authors'
    mean counts the special tokens around a sequence.
    """

    name: str
    molecule: Molecule
    architecture: type[Esm2Architecture] | type[DnabertArchitecture]
    max_length: int
    reads_whole: bool
    pools_specials: bool


# ESM-2 was trained on crops of 1,024 tokens, BOS and EOS included (Lin et al. 2023,
# doi:10.1126/science.ade2574).
ESM2 = Family(
    name="esm2",
    molecule="protein",
    architecture=Esm2Architecture,
    max_length=1022,
    reads_whole=False,
    pools_specials=False,
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
)
FAMILIES = {family.name: family for family in (ESM2, DNABERT_S)}
