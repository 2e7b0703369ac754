"""Where checkpoints of DNABERT-S and DNABERT-2 keep the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seqembed.errors import ModelError
from seqembed.models.families import DnabertArchitecture
from seqembed.models.weights.loading import Weight
from seqembed.models.weights.tensors import State

PREFIXES = ("", "bert.")
EMBEDDINGS = ("embeddings.word_embeddings.weight",)
# Token types that checkpoints have; only the first is ever used.
TOKEN_TYPES = 2
LAYER = "encoder.layer"
PARTS = {
    "qkv": "attention.self.Wqkv",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "gated": "mlp.gated_layers",
    "wo": "mlp.wo",
    "ffn_norm": "mlp.layernorm",
}


def dnabert_weights(
    architecture: DnabertArchitecture, layer: int, state: State
) -> dict[str, Weight]:
    """What DnabertS(architecture, layer) is made of; `state` has plain names.

    Raises ModelError for a checkpoint of more layers than the architecture's.
    """
    if f"{LAYER}.{architecture.layers}.{PARTS['wo']}.weight" in state:
        raise ModelError(
            f"the checkpoint has more than {architecture.layers} layers, the number that its "
            "settings give (num_hidden_layers in config.json); correct them"
        )
    width = architecture.width
    embedding = {
        "embeddings.word_embeddings.weight": (architecture.vocabulary, width),
        "embeddings.token_type_embeddings.weight": (TOKEN_TYPES, width),
    }
    weights = {"embedding.weight": Weight(embedding, lambda words, types: words + types[0])}
    for kind in ("weight", "bias"):
        weights[f"embedding_norm.{kind}"] = Weight({f"embeddings.LayerNorm.{kind}": (width,)})
    for number in range(layer):
        weights |= _layer(architecture, number)
    return weights


def _layer(architecture: DnabertArchitecture, number: int) -> dict[str, Weight]:
    width, ffn_width = architecture.width, architecture.ffn_width
    shapes: dict[str, tuple[int, ...]] = {
        "qkv.weight": (3 * width, width),
        "qkv.bias": (3 * width,),
        "out.weight": (width, width),
        "out.bias": (width,),
        "attention_norm.weight": (width,),
        "attention_norm.bias": (width,),
        "gated.weight": (2 * ffn_width, width),
        "wo.weight": (width, ffn_width),
        "wo.bias": (width,),
        "ffn_norm.weight": (width,),
        "ffn_norm.bias": (width,),
    }
    weights = {}
    for own, shape in shapes.items():
        part, kind = own.split(".")
        parts = {f"{LAYER}.{number}.{PARTS[part]}.{kind}": shape}
        fused = part == "qkv"
        weight = Weight(parts, _scale_query(architecture)) if fused else Weight(parts)
        weights[f"layers.{number}.{own}"] = weight
    return weights


def _scale_query(architecture: DnabertArchitecture) -> Callable[[Tensor], Tensor]:
    """Scale the query's rows of a fused weight as attention wants them."""
    width, scale = architecture.width, architecture.head_dim**-0.5
    return lambda qkv: torch.cat((qkv[:width] * scale, qkv[width:]))
