"""What the encoders of ESM-1b, ESM-1v and ESM-2 share (fair-esm 2.0.0, esm/model/ and modules.py).

Their heads, which predict residues and contacts, are left out.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from seqembed.models.architectures import Esm1bArchitecture, Esm2Architecture
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.pre_norm import PreNormEncoder, PreNormLayer
from seqembed.models.vocabularies import ESM

# fair-esm (esm/model/esm1.py and esm2.py) scales embeddings by (1 - the ratio of masked tokens in
# training) / (1 - the ratio of masked tokens in the batch). Here no token is masked, so the divisor
# is 1.
TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8


class EsmLayer(PreNormLayer):
    """The layer of all three (esm/modules.py, TransformerLayer)."""

    def __init__(self, architecture: Esm1bArchitecture | Esm2Architecture) -> None:
        width, ffn_width = architecture.width, architecture.ffn_width
        super().__init__(
            architecture, partial(nn.LayerNorm, width, eps=architecture.layer_norm_eps)
        )
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)

    def feed_forward(self, x: Tensor) -> Tensor:
        # functional.gelu computes the exact form, with erf.
        rows: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return rows


class EsmEncoder(PreNormEncoder):
    """An encoder of EsmLayers; a family adds positions."""

    architecture: Esm1bArchitecture | Esm2Architecture

    def __init__(self, architecture: Esm1bArchitecture | Esm2Architecture, layer: int) -> None:
        super().__init__(
            architecture,
            layer,
            tokens=len(ESM.tokens),
            make_layer=partial(EsmLayer, architecture),
            last_norm=nn.LayerNorm(architecture.width, eps=architecture.layer_norm_eps),
        )

    def embed(self, tokens: Tensor, packing: Packing) -> Tensor:
        rows: Tensor = self.embedding(tokens)
        return rows * TOKEN_DROPOUT_SCALE if self.architecture.token_dropout else rows
