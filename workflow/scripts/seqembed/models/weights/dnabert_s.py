"""The layout of DNABERT-S's and DNABERT-2's checkpoints, as the authors save them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seqembed.errors import ModelError, named
from seqembed.models.architectures import DnabertArchitecture
from seqembed.models.encoders.dnabert_s import DnabertS
from seqembed.models.encoders.tokenization import BpeTokenizer
from seqembed.models.families import FAMILIES
from seqembed.models.source import TOKENIZER
from seqembed.models.weights.formats import State
from seqembed.models.weights.layout import DEFAULT_EPS, Layout, Weight, read_sizes, weight_and_bias

# How many token types checkpoints have; the encoder uses the first type only.
TOKEN_TYPES = 2
# For each setting of config.json: the value that it must have, and its default in the authors'
# configuration_bert.py. position_embedding_type is not checked: it says "absolute" despite ALiBi.
CONFIG = {
    "hidden_act": ("gelu", "gelu"),
    "type_vocab_size": (TOKEN_TYPES, TOKEN_TYPES),
    "is_decoder": (False, False),
    "add_cross_attention": (False, False),
}
# Tensors that change no row, after the authors' bert_layers.py, where ALiBi replaces position
# embeddings.
UNUSED = re.compile(
    r"pooler\.dense\.(weight|bias)"
    r"|embeddings\.(position_ids|token_type_ids)"
    r"|embeddings\.position_embeddings\.weight"
)
LAYER = "encoder.layer"
# Our name of each part of a layer, and the authors' name.
PARTS = {
    "qkv": "attention.self.Wqkv",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "gated": "mlp.gated_layers",
    "wo": "mlp.wo",
    "ffn_norm": "mlp.layernorm",
}
EMBEDDING = "embeddings.word_embeddings.weight"


def dnabert_weights(
    architecture: DnabertArchitecture, layer: int, state: State
) -> dict[str, Weight]:
    """Return a Weight for each weight of DnabertS(architecture, layer), by the weight's name."""
    width = architecture.width
    embedding = {
        EMBEDDING: (architecture.vocabulary, width),
        "embeddings.token_type_embeddings.weight": (TOKEN_TYPES, width),
    }
    weights = {"embedding.weight": Weight(embedding, lambda words, types: words + types[0])}
    weights |= weight_and_bias("embedding_norm", "embeddings.LayerNorm", width)
    shapes: dict[str, tuple[int, ...]] = {
        "qkv": (3 * width, width),
        "out": (width, width),
        "attention_norm": (width,),
        "gated": (2 * architecture.ffn_width, width),
        "wo": (width, architecture.ffn_width),
        "ffn_norm": (width,),
    }
    scale = architecture.head_dim**-0.5
    for number in range(layer):
        for part, theirs in PARTS.items():
            name = f"{LAYER}.{number}.{theirs}"
            weights |= weight_and_bias(f"layers.{number}.{part}", name, *shapes[part])
        del weights[f"layers.{number}.gated.bias"]
        for own in (f"layers.{number}.qkv.weight", f"layers.{number}.qkv.bias"):
            # Attention takes the query scaled by 1 / sqrt(head_dim).
            weights[own] = Weight(
                weights[own].parts, lambda qkv: torch.cat((qkv[:width] * scale, qkv[width:]))
            )
    return weights


def read_config(path: Path, config: Mapping[str, Any]) -> DnabertArchitecture:
    """Return config.json's architecture; ModelError unless model and tokenizer are DNABERT's."""
    if "alibi_starting_size" not in config:
        raise ModelError(
            f"{path}: model_type is 'bert' and there is no alibi_starting_size, which DNABERT-S "
            "and DNABERT-2 have; no other BERT is supported"
        )
    sizes = read_sizes(path, config, CONFIG, "DNABERT-S")
    vocabulary: Any = config.get("vocab_size")
    eps: Any = config.get("layer_norm_eps", DEFAULT_EPS)
    with named(path):
        architecture = DnabertArchitecture(**sizes, vocabulary=vocabulary, layer_norm_eps=eps)
    BpeTokenizer(path.parent / TOKENIZER).check(architecture.vocabulary)
    return architecture


LAYOUT = Layout(
    family=FAMILIES["dnabert_s"],
    encoder=DnabertS,
    prefixes=("", "bert."),
    embeddings=(EMBEDDING,),
    layers=(LAYER,),
    unused=UNUSED,
    weights=dnabert_weights,
    config={"model_type": "bert"},
    read_config=read_config,
)
