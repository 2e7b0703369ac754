"""A peer: DNABERT-S's formulas over padded batches, with PyTorch's own attention.

The authors' code cannot be run here without trusting code from a model's folder; like it this adds
ALiBi's table and the padding's mask to the scores, made once a batch.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from functools import partial

import batching
import contest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

PAD = 3


def slopes(heads: int) -> list[float]:
    """As the ALiBi paper's code has them, by recursion."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**i for i in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return slopes(power) + slopes(2 * power)[0::2][: heads - power]


class PaddedDnabert:
    """The encoder of a Hugging Face folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        config = json.loads((options.model / "config.json").read_text())
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.eps = config["layer_norm_eps"]
        self.device, dtype = options.device, contest.DTYPES[options.precision]
        state = load_file(options.model / "model.safetensors")
        self.state = {name: t.to(self.device, dtype) for name, t in state.items()}
        self.slopes = torch.tensor(slopes(self.heads), device=self.device)

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The last layer's rows, (n, L, D), of tokens (n, L); mask (n, L) is 1 but in padding."""
        words = self.state["embeddings.word_embeddings.weight"][tokens]
        types = self.state["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(words + types, "embeddings.LayerNorm")
        bias = self._bias(mask).to(x.dtype)
        for number in range(self.layers):
            x = self._layer(x, bias, f"encoder.layer.{number}")
        return x

    def _layer(self, x: Tensor, bias: Tensor, name: str) -> Tensor:
        attention, mlp = f"{name}.attention", f"{name}.mlp"
        qkv = self._linear(x, f"{attention}.self.Wqkv").unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        mixed = self._linear(mixed.transpose(1, 2).flatten(2), f"{attention}.output.dense")
        x = self._norm(mixed + x, f"{attention}.output.LayerNorm")
        gate, hidden = (x @ self.state[f"{mlp}.gated_layers.weight"].T).chunk(2, dim=-1)
        hidden = self._linear(functional.gelu(gate) * hidden, f"{mlp}.wo")
        return self._norm(hidden + x, f"{mlp}.layernorm")

    def _bias(self, mask: Tensor) -> Tensor:
        """What is added to the scores, (n, heads, L, L)."""
        place = torch.arange(mask.shape[1], device=self.device)
        table = -self.slopes[:, None, None] * (place[:, None] - place).abs()
        padding = torch.zeros(mask.shape, device=self.device).masked_fill(~mask, -math.inf)
        return table + padding[:, None, None]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, self.eps)


def embed(model: PaddedDnabert, tokens: Sequence[Tensor], batch: Sequence[int]) -> contest.Embedded:
    chosen = [tokens[number] for number in batch]
    padded = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=PAD)
    padded = padded.to(model.device)
    mask = padded != PAD
    rows = contest.mean_rows(model(padded, mask), mask)
    return contest.Embedded(rows, int(mask.sum()), mask.numel())


def main() -> None:
    options = contest.parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    # The file says to pad to 2,000 tokens, and to cut there.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    model = PaddedDnabert(options)
    # Batches by length cannot be made before: tokens are not letters. Their time is not counted.
    found = tokenizer.encode_batch(contest.read_sequences(options.fasta))
    tokens = [torch.tensor(each.ids) for each in found]
    lengths = [len(own) for own in tokens]
    plan = partial(batching.padded_batches, lengths)
    contest.race(options, plan, lambda batch: embed(model, tokens, batch))


if __name__ == "__main__":
    main()
