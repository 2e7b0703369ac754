"""Rotary positions: queries and keys are turned by angles that grow with a token's position.

The formulas are those of fair-esm 2.0.0 (esm/rotary_embedding.py; Su et al., arXiv:2104.09864).
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqembed.kernels.choice import Steps
from seqembed.models.encoders.attention import Attend, Packing

# From esm/rotary_embedding.py of fair-esm; rope_theta of ESM C in transformers.
ROTARY_BASE = 10000.0


def default_inv_freq(head_dim: int) -> Tensor:
    """Return a model's rotary frequencies in radians per token, (head_dim / 2,) float32.

    Frequency i, from 0, is ROTARY_BASE ** (-2 i / head_dim), computed as in fair-esm.
    """
    return 1.0 / (ROTARY_BASE ** (torch.arange(0, head_dim, 2).float() / head_dim))


def rotary_tables(inv_freq: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of all tokens' angles, each (T, 1, 1, head_dim / 2) float32.

    A token's angles are `inv_freq`, (head_dim / 2,) float32, times its position in its sequence.
    """
    angles = torch.outer(packing.positions.to(inv_freq.dtype), inv_freq)[:, None, None]
    return angles.cos(), angles.sin()


def rotate_before(attend: Attend, inv_freq: Tensor, packing: Packing, steps: Steps) -> Attend:
    """Return attention that turns queries and keys, in place, before `attend` takes them."""
    cos, sin = rotary_tables(inv_freq, packing)

    def attend_rotated(qkv: Tensor) -> Tensor:
        steps.rotate_(qkv[:, :2], cos, sin)
        return attend(qkv)

    return attend_rotated
