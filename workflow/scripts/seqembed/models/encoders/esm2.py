"""The encoder of ESM-2, without the heads that predict residues and contacts.

The architecture is that of fair-esm 2.0.0 (esm/model/esm2.py, esm/modules.py,
esm/rotary_embedding.py; Lin et al. 2023, doi:10.1126/science.ade2574).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqembed.kernels.choice import Steps
from seqembed.models.encoders.attention import Attend, Packing
from seqembed.models.encoders.encoder import Encoder, in_blocks, in_chunks
from seqembed.models.encoders.tokenization import ESM2_ALPHABET
from seqembed.models.families import Esm2Architecture

# From esm/rotary_embedding.py of fair-esm.
ROTARY_BASE = 10000.0
# fair-esm (esm/model/esm2.py) scales embeddings by (1 - the ratio of masked tokens in training) /
# (1 - the ratio of masked tokens in the batch). Here no token is masked, so the divisor is 1.
TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8


def default_inv_freq(head_dim: int) -> Tensor:
    """Return an ESM-2's rotary frequencies in radians per token, (head_dim / 2,) float32.

    Frequency i, from 0, is ROTARY_BASE ** (-2 i / head_dim), computed as in fair-esm.
    """
    return 1.0 / (ROTARY_BASE ** (torch.arange(0, head_dim, 2).float() / head_dim))


def rotary_tables(inv_freq: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of all tokens' angles, each (T, 1, 1, head_dim / 2) float32.

    A token's angles are `inv_freq`, (head_dim / 2,) float32, times its position in its sequence.
    """
    starts, lengths, total = packing.cu_seqlens[:-1], packing.cu_seqlens.diff(), packing.bounds[-1]
    offsets = torch.repeat_interleave(starts, lengths, output_size=total)
    positions = torch.arange(total, device=inv_freq.device) - offsets
    angles = torch.outer(positions.to(inv_freq.dtype), inv_freq)[:, None, None]
    return angles.cos(), angles.sin()


class Esm2Layer(nn.Module):
    """A transformer layer whose norms come before attention and before the feed-forward part."""

    def __init__(self, architecture: Esm2Architecture) -> None:
        super().__init__()
        width, eps = architecture.width, architecture.layer_norm_eps
        self.heads, self.head_dim = architecture.heads, architecture.head_dim
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, architecture.ffn_width)
        self.fc2 = nn.Linear(architecture.ffn_width, width)

    def forward(
        self, x: Tensor, normed: Tensor, norm: nn.Module, attend: Attend, steps: Steps
    ) -> tuple[Tensor, Tensor]:
        """Return the rows after this layer, and norm(rows); all rows: (T, width) in one dtype.

        x: the rows before this layer. normed: attention_norm(x). norm: what takes the rows next.
        attend: rotary attention over the batch.
        """
        qkv = in_blocks(self.qkv, normed).view(x.shape[0], 3, self.heads, self.head_dim)
        attended = in_blocks(self.out, attend(qkv).reshape(x.shape))
        x, normed = steps.add_norm(x, attended, self.ffn_norm)
        return steps.add_norm(x, in_chunks(self._feed_forward, normed), norm)

    def _feed_forward(self, x: Tensor) -> Tensor:
        # functional.gelu computes the exact form, with erf.
        rows: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return rows


class Esm2(Encoder):
    """The encoder of ESM-2. As in fair-esm, a LayerNorm follows the model's last layer only."""

    alibi = False
    architecture: Esm2Architecture
    inv_freq: Tensor

    def __init__(self, architecture: Esm2Architecture, layer: int) -> None:
        super().__init__(architecture, layer)
        width, eps = architecture.width, architecture.layer_norm_eps
        self.embedding = nn.Embedding(len(ESM2_ALPHABET), width)
        self.register_buffer("inv_freq", default_inv_freq(architecture.head_dim))
        self.layers = nn.ModuleList(Esm2Layer(architecture) for _ in range(layer))
        last = layer == architecture.layers
        self.final_norm = nn.LayerNorm(width, eps=eps) if last else nn.Identity()

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Return the rows of layer `self.layer`; shapes and dtypes are as in Encoder."""
        x = self.embedding(tokens)
        if self.architecture.token_dropout:
            x = x * TOKEN_DROPOUT_SCALE
        attend = self._attend_rotated(packing)
        layers = cast(Iterable[Esm2Layer], self.layers)
        first, *norms = [*(layer.attention_norm for layer in layers), self.final_norm]
        rows: Tensor = first(x)
        steps = self.steps
        for layer, norm in zip(layers, norms, strict=True):
            x, rows = layer(x, rows, norm, attend, steps)
        return rows

    def _attend_rotated(self, packing: Packing) -> Attend:
        cos, sin = rotary_tables(self.inv_freq, packing)
        attend, steps = self.attend_over(packing), self.steps

        def attend_rotated(qkv: Tensor) -> Tensor:
            steps.rotate_(qkv[:, :2], cos, sin)
            return attend(qkv)

        return attend_rotated
