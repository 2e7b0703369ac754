"""The shapes of models that are raced, and what a pass through one costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Molecule = Literal["protein", "DNA"]


@dataclass(frozen=True)
class Shape:
    """An encoder's sizes; `gated`: its feed-forward part has DNABERT-S's third matrix."""

    molecule: Molecule
    layers: int
    width: int
    heads: int
    ffn_width: int

    @property
    def gated(self) -> bool:
        return self.molecule == "DNA"

    @property
    def products(self) -> dict[str, tuple[int, int]]:
        """Columns in and out of each matrix product of a layer but attention's."""
        width, ffn_width = self.width, self.ffn_width
        return {
            "qkv": (width, 3 * width),
            "out": (width, width),
            "ffn in": (width, (2 if self.gated else 1) * ffn_width),
            "ffn out": (ffn_width, width),
        }

    def flops(self, lengths: Sequence[int]) -> int:
        """Of one pass over sequences of so many tokens: products with weights, and attention's.

        Padding, norms, activations and a language model's head are nobody's merit: not counted.
        """
        matrices = self.layers * sum(a * b for a, b in self.products.values())
        attention = 4 * self.layers * self.width * sum(n * n for n in lengths)
        return 2 * matrices * sum(lengths) + attention


SHAPES = {
    "t6_8M": Shape("protein", 6, 320, 20, 1280),
    "t12_35M": Shape("protein", 12, 480, 20, 1920),
    "t30_150M": Shape("protein", 30, 640, 20, 2560),
    "t33_650M": Shape("protein", 33, 1280, 20, 5120),
    "t36_3B": Shape("protein", 36, 2560, 40, 10240),
    "dnabert_s": Shape("DNA", 12, 768, 12, 3072),
    # To try the programs in seconds.
    "tiny_protein": Shape("protein", 2, 64, 4, 256),
    "tiny_dna": Shape("DNA", 2, 48, 4, 96),
}
