"""The encoder of a T5, which ProtT5, ProstT5 and Ankh are.

The formulas are those of transformers (models/t5/modeling_t5.py; Raffel et al. 2020,
arXiv:1910.10683). Nothing divides scores by sqrt(head_dim). The bias by distance is that of the
first layer, in all layers. Rows between layers are float32 in every precision, as their values may
be too large for fp16; transformers clamps them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqembed.kernels.plain import RmsNorm
from seqembed.models.architectures import T5Architecture
from seqembed.models.encoders.attention import Biases, Packing
from seqembed.models.encoders.pre_norm import PreNormEncoder, PreNormLayer

# By T5Architecture.activation; `gelu` of a T5 is the form with tanh (`gelu_new` in transformers).
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu_,
    "gated-gelu": partial(functional.gelu, approximate="tanh"),
    "gated-silu": functional.silu,
}


class T5Layer(PreNormLayer):
    """A layer without biases, and with norms by the root mean square."""

    def __init__(self, architecture: T5Architecture) -> None:
        width, ffn_width = architecture.width, architecture.ffn_width
        make_norm = partial(RmsNorm, width, eps=architecture.layer_norm_eps)
        super().__init__(architecture, make_norm, bias=False)
        self.activation, self.gated = ACTIVATIONS[architecture.activation], architecture.gated
        self.wi = nn.Linear(width, (2 if self.gated else 1) * ffn_width, bias=False)
        self.wo = nn.Linear(ffn_width, width, bias=False)

    def feed_forward(self, x: Tensor) -> Tensor:
        first, *second = self.wi(x).chunk(2 if self.gated else 1, dim=-1)
        hidden = self.activation(first)
        rows: Tensor = self.wo(hidden.mul_(*second) if second else hidden)
        return rows


class T5(PreNormEncoder):
    """The encoder of a T5; layer 0 is the embedding."""

    architecture: T5Architecture
    bias_table: Tensor
    buckets: Tensor

    def __init__(self, architecture: T5Architecture, layer: int) -> None:
        super().__init__(
            architecture,
            layer,
            tokens=architecture.vocabulary,
            make_layer=partial(T5Layer, architecture),
            last_norm=RmsNorm(architecture.width, eps=architecture.layer_norm_eps),
        )
        # Random until the checkpoint's values are there, as weights are. A buffer stays float32.
        self.register_buffer("bias_table", torch.randn(architecture.buckets, architecture.heads))
        buckets = distance_buckets(architecture.buckets, architecture.max_distance)
        self.register_buffer("buckets", buckets)

    def biases(self, longest: int) -> Biases:
        """Return the biases of the buckets that distances are in."""
        most = self.architecture.max_distance
        distances = torch.arange(1 - longest, longest, device=self.buckets.device)
        found = self.buckets[distances.clamp(-most, most) + most]
        return Biases(self.bias_table[found].T.contiguous())

    def embed(self, tokens: Tensor, packing: Packing) -> Tensor:
        return super().embed(tokens, packing).float()


def distance_buckets(buckets: int, max_distance: int) -> Tensor:
    """Return the buckets of distances from -max_distance to max_distance, int64.

    A distance is the key's place less the query's. After T5Attention._relative_position_bucket in
    transformers, in its order and precision: at the borders of buckets, rounding decides.
    """
    half = buckets // 2
    exact = half // 2
    distances = torch.arange(-max_distance, max_distance + 1)
    size = distances.abs()
    logarithms = torch.log(size.float() / exact) / math.log(max_distance / exact)
    far = (exact + (logarithms * (half - exact)).to(torch.long)).clamp(max=half - 1)
    return torch.where(size < exact, size, far) + half * (distances > 0)
