"""What encoders share whose norms come before attention and before the feed-forward part."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import cast

from torch import Tensor, nn

from seqembed.kernels.choice import Steps
from seqembed.models.architectures import Architecture
from seqembed.models.encoders.attention import Attend, Packing
from seqembed.models.encoders.encoder import Encoder, in_blocks, in_chunks
from seqembed.models.encoders.rotary import default_inv_freq, rotate_before


class PreNormLayer(nn.Module):
    """A transformer layer; a family's layer adds the feed-forward part.

    make_norm: returns a new norm of rows. bias: whether the products of attention add a bias.
    """

    def __init__(
        self, architecture: Architecture, make_norm: Callable[[], nn.Module], *, bias: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.head_dim = architecture.heads, architecture.head_dim
        self.ffn_width = architecture.ffn_width
        width, attended = architecture.width, self.heads * self.head_dim
        self.attention_norm = make_norm()
        self.qkv = nn.Linear(width, 3 * attended, bias=bias)
        self.out = nn.Linear(attended, width, bias=bias)
        self.ffn_norm = make_norm()

    @abstractmethod
    def feed_forward(self, x: Tensor) -> Tensor:
        """Return the feed-forward part's rows; x: some tokens' normed rows; both (n, width)."""

    def normed_qkv(self, qkv: Tensor) -> Tensor:
        """Return q, k and v as attention takes them, (T, 3 heads * head_dim), in place or not."""
        return qkv

    def forward(
        self, x: Tensor, normed: Tensor, norm: nn.Module, attend: Attend, steps: Steps
    ) -> tuple[Tensor, Tensor]:
        """Return the rows after this layer, and norm(rows); all rows: (T, width).

        x: the rows before this layer, in float32 or the weights' dtype; the result may take their
        memory. normed: attention_norm(x), in the weights' dtype. norm: what takes the rows next.
        attend: attention over the batch.
        """
        width = x.shape[1]
        qkv = self.normed_qkv(in_blocks(self.qkv, normed, width))
        heads = qkv.view(x.shape[0], 3, self.heads, self.head_dim)
        attended = in_blocks(self.out, attend(heads).flatten(1), width)
        x, normed = steps.add_norm(x, attended, self.ffn_norm)
        return steps.add_norm(x, in_chunks(self.feed_forward, normed, self.ffn_width), norm)


class PreNormEncoder(Encoder):
    """An encoder of PreNormLayers; `last_norm` follows the model's last layer only.

    tokens: the number of tokens in the vocabulary. make_layer: returns a new layer. If the
    architecture is rotary, queries and keys are turned by their positions. A family overrides
    `embed` where it differs.
    """

    inv_freq: Tensor

    def __init__(
        self,
        architecture: Architecture,
        layer: int,
        *,
        tokens: int,
        make_layer: Callable[[], PreNormLayer],
        last_norm: nn.Module,
    ) -> None:
        super().__init__(architecture, layer)
        self.embedding = nn.Embedding(tokens, architecture.width)
        self.layers = nn.ModuleList(make_layer() for _ in range(layer))
        self.final_norm = last_norm if layer == architecture.layers else nn.Identity()
        if architecture.rotary:
            self.register_buffer("inv_freq", default_inv_freq(architecture.head_dim))

    def embed(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Return the rows of layer 0, (T, width)."""
        rows: Tensor = self.embedding(tokens)
        return rows

    def attention(self, packing: Packing) -> Attend:
        """Return attention over a batch; it changes queries and keys first if they are rotary."""
        attend = self.attend_over(packing)
        if not self.architecture.rotary:
            return attend
        return rotate_before(attend, self.inv_freq, packing, self.steps)

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Return the rows of layer `self.layer`; shapes and dtypes are as in Encoder."""
        x = self.embed(tokens, packing)
        attend, steps = self.attention(packing), self.steps
        layers = cast(Iterable[PreNormLayer], self.layers)
        first, *norms = [*(layer.attention_norm for layer in layers), self.final_norm]
        rows: Tensor = first(x)
        for layer, norm in zip(layers, norms, strict=True):
            x, rows = layer(x, rows, norm, attend, steps)
        return rows
