"""The encoder of ESM-1b and ESM-1v.

It is that of fair-esm 2.0.0 (esm/model/esm1.py with args.arch "roberta_large"; Rives et al. 2021,
doi:10.1073/pnas.2016239118; Meier et al. 2021, doi:10.1101/2021.07.09.450648).
"""

from __future__ import annotations

from torch import Tensor, nn

from seqembed.models.architectures import Esm1bArchitecture
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.esm import EsmEncoder

# The rows of the table of positions; the first token takes row 2, as row 1 belongs to padding
# (LearnedPositionalEmbedding in esm/modules.py of fair-esm).
POSITIONS, FIRST_POSITION = 1026, 2


class Esm1b(EsmEncoder):
    """The encoder of ESM-1b and ESM-1v; layer 0 is the embedding after its LayerNorm, if any."""

    def __init__(self, architecture: Esm1bArchitecture, layer: int) -> None:
        super().__init__(architecture, layer)
        width, eps = architecture.width, architecture.layer_norm_eps
        self.positions = nn.Embedding(POSITIONS, width)
        normed = architecture.embedding_norm
        self.embedding_norm = nn.LayerNorm(width, eps=eps) if normed else nn.Identity()

    def embed(self, tokens: Tensor, packing: Packing) -> Tensor:
        placed = super().embed(tokens, packing) + self.positions(packing.positions + FIRST_POSITION)
        rows: Tensor = self.embedding_norm(placed)
        return rows
