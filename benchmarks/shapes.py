"""The shapes of models that are raced, and what a pass through one costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Molecule = Literal["protein", "DNA"]
Family = Literal["esm2", "esmc", "prot_t5", "ankh", "dnabert_s"]
# In what the authors of each family compute on a GPU.
HALVES = {"esm2": "fp16", "esmc": "bf16", "prot_t5": "fp16", "ankh": "bf16", "dnabert_s": "fp16"}


@dataclass(frozen=True)
class Shape:
    """An encoder's sizes.

    gated: whether its feed-forward part has a third matrix. head_width: of a T5's heads, whose
    width does not follow from the encoder's.
    """

    family: Family
    layers: int
    width: int
    heads: int
    ffn_width: int
    gated: bool = False
    head_width: int | None = None

    @property
    def head_dim(self) -> int:
        return self.head_width or self.width // self.heads

    @property
    def attended(self) -> int:
        """The values of a token's query, and of its row of attention: of all heads."""
        return self.heads * self.head_dim

    @property
    def molecule(self) -> Molecule:
        return "DNA" if self.family == "dnabert_s" else "protein"

    @property
    def ffn_vectors(self) -> int:
        """As Architecture.ffn_vectors in the library."""
        return 3 if self.gated else 1 if self.t5 else 2

    @property
    def t5(self) -> bool:
        return self.family in ("prot_t5", "ankh")

    @property
    def specials(self) -> int:
        """The special tokens of a sequence."""
        return 1 if self.t5 else 2

    def precision(self, device: str) -> str:
        """What the authors compute in on a device, `cpu` or `cuda`."""
        return "fp32" if device == "cpu" else HALVES[self.family]

    @property
    def products(self) -> dict[str, tuple[int, int]]:
        """Columns in and out of each matrix product of a layer but attention's."""
        width, ffn_width = self.width, self.ffn_width
        return {
            "qkv": (width, 3 * self.attended),
            "out": (self.attended, width),
            "ffn in": (width, (2 if self.gated else 1) * ffn_width),
            "ffn out": (ffn_width, width),
        }

    def flops(self, lengths: Sequence[int]) -> int:
        """Of one pass over sequences of so many tokens: products with weights, and attention's.

        Padding, norms, activations and a language model's head are nobody's merit: not counted.
        """
        matrices = self.layers * sum(a * b for a, b in self.products.values())
        attention = 4 * self.layers * self.attended * sum(n * n for n in lengths)
        return 2 * matrices * sum(lengths) + attention


SHAPES = {
    "t6_8M": Shape("esm2", 6, 320, 20, 1280),
    "t12_35M": Shape("esm2", 12, 480, 20, 1920),
    "t30_150M": Shape("esm2", 30, 640, 20, 2560),
    "t33_650M": Shape("esm2", 33, 1280, 20, 5120),
    "t36_3B": Shape("esm2", 36, 2560, 40, 10240),
    "t48_15B": Shape("esm2", 48, 5120, 40, 20480),
    "esmc_300m": Shape("esmc", 30, 960, 15, 2560, gated=True),
    "prot_t5": Shape("prot_t5", 24, 1024, 32, 16384, head_width=128),
    "ankh_large": Shape("ankh", 48, 1536, 16, 3840, gated=True, head_width=64),
    "dnabert_s": Shape("dnabert_s", 12, 768, 12, 3072, gated=True),
    # To try the programs in seconds.
    "tiny_protein": Shape("esm2", 2, 64, 4, 256),
    "tiny_esmc": Shape("esmc", 2, 64, 4, 128, gated=True),
    "tiny_t5": Shape("prot_t5", 2, 64, 4, 128, head_width=32),
    "tiny_dna": Shape("dnabert_s", 2, 48, 4, 96, gated=True),
}
