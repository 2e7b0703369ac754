"""The checkpoints of DNABERT-S and DNABERT-2, with the names of their authors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seqembed.errors import ModelError, named
from seqembed.models.encoders.dnabert_s import DnabertS
from seqembed.models.encoders.tokenization import BpeTokenizer
from seqembed.models.families import DNABERT_S, DnabertArchitecture
from seqembed.models.source import TOKENIZER
from seqembed.models.weights.layout import Layout, Weight, read_sizes, weight_and_bias
from seqembed.models.weights.tensors import State

# The token types that checkpoints have; the encoder uses the first only.
TOKEN_TYPES = 2
# For each setting the value that it must have, and the default, after the authors'
# configuration_bert.py. position_embedding_type is "absolute" there in spite of ALiBi: not checked.
CONFIG = {
    "hidden_act": ("gelu", "gelu"),
    "type_vocab_size": (TOKEN_TYPES, TOKEN_TYPES),
    "is_decoder": (False, False),
    "add_cross_attention": (False, False),
}
# Only BERTs with ALiBi have this setting.
ALIBI = "alibi_starting_size"
# After the authors' bert_layers.py, which has ALiBi in place of position embeddings.
UNUSED = re.compile(
    r"pooler\.dense\.(weight|bias)"
    r"|embeddings\.(position_ids|token_type_ids)"
    r"|embeddings\.position_embeddings\.weight"
)
LAYER = "encoder.layer"
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
    """Return the weights of DnabertS(architecture, layer); see Layout.weights."""
    width = architecture.width
    embedding = {
        EMBEDDING: (architecture.vocabulary, width),
        "embeddings.token_type_embeddings.weight": (TOKEN_TYPES, width),
    }
    weights = {"embedding.weight": Weight(embedding, lambda words, types: words + types[0])}
    weights |= weight_and_bias("embedding_norm", "embeddings.LayerNorm", width)
    for number in range(layer):
        weights |= _layer(architecture, number)
    return weights


def _layer(architecture: DnabertArchitecture, number: int) -> dict[str, Weight]:
    width, ffn_width = architecture.width, architecture.ffn_width
    shapes = {
        "qkv": (3 * width, width),
        "out": (width, width),
        "attention_norm": (width,),
        "gated": (2 * ffn_width, width),
        "wo": (width, ffn_width),
        "ffn_norm": (width,),
    }
    weights: dict[str, Weight] = {}
    for part, shape in shapes.items():
        name = f"{LAYER}.{number}.{PARTS[part]}"
        weights |= weight_and_bias(f"layers.{number}.{part}", name, *shape)
    del weights[f"layers.{number}.gated.bias"]
    scale = architecture.head_dim**-0.5
    for kind in ("weight", "bias"):
        own = f"layers.{number}.qkv.{kind}"
        # Our attention takes a scaled query.
        weights[own] = Weight(
            weights[own].parts, lambda qkv: torch.cat((qkv[:width] * scale, qkv[width:]))
        )
    return weights


def read_config(path: Path, config: Mapping[str, Any]) -> DnabertArchitecture:
    """Return the architecture in a DNABERT's config.json; see Layout.read_config."""
    if ALIBI not in config:
        raise ModelError(
            f"{path}: model_type is 'bert' and there is no {ALIBI}; of the BERTs only DNABERT-S "
            "and DNABERT-2, which have it, are supported"
        )
    sizes = read_sizes(path, config, CONFIG, "DNABERT-S")
    vocabulary: Any = config.get("vocab_size")
    with named(path):
        architecture = DnabertArchitecture(**sizes, vocabulary=vocabulary)
    BpeTokenizer(path.parent / TOKENIZER).check(architecture.vocabulary)
    return architecture


LAYOUT = Layout(
    family=DNABERT_S,
    encoder=DnabertS,
    prefixes=("", "bert."),
    embeddings=(EMBEDDING,),
    layers=(LAYER,),
    unused=UNUSED,
    weights=dnabert_weights,
    model_type="bert",
    read_config=read_config,
)
