"""The encoder of DNABERT-S and DNABERT-2, which have the same architecture.

It is that of BERT with two changes (Zhou et al. 2024, arXiv:2402.08777 and arXiv:2306.15006): the
feed-forward part is gated, and ALiBi's biases replace the position embeddings, so that sequences
may have any length.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from seqembed.kernels.choice import Steps
from seqembed.models.architectures import DnabertArchitecture
from seqembed.models.encoders.attention import (
    Attend,
    Biases,
    Packing,
    alibi_biases,
    alibi_slopes,
)
from seqembed.models.encoders.encoder import Encoder, in_blocks, in_chunks


class DnabertLayer(nn.Module):
    """A transformer layer whose norms come after attention and after the feed-forward part."""

    def __init__(self, architecture: DnabertArchitecture) -> None:
        super().__init__()
        width, eps = architecture.width, architecture.layer_norm_eps
        self.heads, self.head_dim = architecture.heads, architecture.head_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.gated = nn.Linear(width, 2 * architecture.ffn_width, bias=False)
        self.wo = nn.Linear(architecture.ffn_width, width)
        self.ffn_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, attend: Attend, steps: Steps) -> Tensor:
        """Return the rows after this layer; x: those before it; both (T, width) in one dtype."""
        width = x.shape[1]
        qkv = in_blocks(self.qkv, x, width).view(x.shape[0], 3, self.heads, self.head_dim)
        attended = in_blocks(self.out, attend(qkv).flatten(1), width)
        x = steps.add_norm(x, attended, self.attention_norm)[1]
        added = in_chunks(self._feed_forward, x, self.wo.in_features)
        return steps.add_norm(x, added, self.ffn_norm)[1]

    def _feed_forward(self, x: Tensor) -> Tensor:
        gate, hidden = self.gated(x).chunk(2, dim=-1)
        # functional.gelu computes the exact form, with erf.
        # In place: memory holds one vector of ffn_width less for each token.
        rows: Tensor = self.wo(functional.gelu(gate).mul_(hidden))
        return rows


class DnabertS(Encoder):
    """The encoder of DNABERT-S and DNABERT-2; layer 0 is the embedding after its LayerNorm."""

    architecture: DnabertArchitecture
    slopes: Tensor

    def __init__(self, architecture: DnabertArchitecture, layer: int) -> None:
        super().__init__(architecture, layer)
        width = architecture.width
        # The embedding of each token plus the embedding of token type 0, the only type in use.
        self.embedding = nn.Embedding(architecture.vocabulary, width)
        self.embedding_norm = nn.LayerNorm(width, eps=architecture.layer_norm_eps)
        self.register_buffer("slopes", alibi_slopes(architecture.heads))
        self.layers = nn.ModuleList(DnabertLayer(architecture) for _ in range(layer))

    def biases(self, longest: int) -> Biases:
        """Return ALiBi's biases."""
        return alibi_biases(self.slopes, longest)

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Return the rows of layer `self.layer`; shapes and dtypes are as in Encoder."""
        x: Tensor = self.embedding_norm(self.embedding(tokens))
        attend, steps = self.attend_over(packing), self.steps
        for layer in self.layers:
            x = layer(x, attend, steps)
        return x
