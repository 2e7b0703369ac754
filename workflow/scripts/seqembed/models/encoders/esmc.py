"""The encoder of ESM C, without the head that predicts residues.

The architecture is that of the authors' package (esm/models/esmc.py and esm/layers of
https://github.com/Biohub/esm; doi:10.5281/zenodo.14219303) and of transformers 5.17 or newer
(models/esmc/modeling_esmc.py). Both divide what attention and the feed-forward part add to a row by
sqrt(layers / 36); here the weights are divided, when they are read.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from seqembed.models.architectures import EsmcArchitecture
from seqembed.models.encoders.pre_norm import PreNormEncoder, PreNormLayer
from seqembed.models.vocabularies import ESMC

# What norms add to the variance: PyTorch's default, in the authors' code and in transformers.
EPS = 1e-5


class EsmcLayer(PreNormLayer):
    """A layer with norms of queries and keys, over all heads together, and a gated SiLU."""

    def __init__(self, architecture: EsmcArchitecture) -> None:
        width = architecture.width
        super().__init__(architecture, partial(nn.LayerNorm, width, eps=EPS), bias=False)
        self.q_norm = nn.LayerNorm(width, eps=EPS, bias=False)
        self.k_norm = nn.LayerNorm(width, eps=EPS, bias=False)
        self.gated = nn.Linear(width, 2 * architecture.ffn_width, bias=False)
        self.wo = nn.Linear(architecture.ffn_width, width, bias=False)

    def normed_qkv(self, qkv: Tensor) -> Tensor:
        q, k, _ = qkv.chunk(3, dim=-1)
        q.copy_(self.q_norm(q))
        k.copy_(self.k_norm(k))
        return qkv

    def feed_forward(self, x: Tensor) -> Tensor:
        gate, hidden = self.gated(x).chunk(2, dim=-1)
        # In place: new memory for the product would take longer than the product.
        rows: Tensor = self.wo(functional.silu(gate).mul_(hidden))
        return rows


class Esmc(PreNormEncoder):
    """The encoder of ESM C."""

    def __init__(self, architecture: EsmcArchitecture, layer: int) -> None:
        super().__init__(
            architecture,
            layer,
            tokens=len(ESMC.tokens),
            make_layer=partial(EsmcLayer, architecture),
            last_norm=nn.LayerNorm(architecture.width, eps=EPS, bias=False),
        )
