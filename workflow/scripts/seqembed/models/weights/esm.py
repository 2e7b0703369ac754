"""What the checkpoints of ESM-1b, ESM-1v and ESM-2 share: names, of fair-esm or of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqembed.errors import ModelError, count_of
from seqembed.models.architectures import Esm1bArchitecture, Esm2Architecture
from seqembed.models.vocabularies import ESM
from seqembed.models.weights.formats import State
from seqembed.models.weights.layout import (
    DEFAULT_EPS,
    FOLDER,
    Weight,
    count_layers,
    read_sizes,
    weight_and_bias,
)
from seqembed.models.weights.vocabulary import check_vocabulary

TOKENS = len(ESM.tokens)
# For each setting of config.json that all models must have: its value, and its default in
# transformers' EsmConfig.
CONFIG = {
    "hidden_act": ("gelu", "gelu"),
    "is_folding_model": (False, False),
    "is_decoder": (False, False),
    "is_causal": (False, False),
}
# fair-esm removes the last two (upgrade_state_dict in esm/pretrained.py).
PREFIXES = ("", "esm.", "encoder.sentence_encoder.", "encoder.")
# What matches tensors that change no row. fair-esm's models and transformers' EsmModel have a
# contact head, fair-esm's models the language model's head, EsmModel(add_pooling_layer=True) a
# pooler. transformers 4.29 saved position_ids. No EsmModel reads token types.
UNUSED = (
    r"contact_head\.regression\.(weight|bias)"
    r"|pooler\.dense\.(weight|bias)"
    r"|embeddings\.position_ids"
    r"|embeddings\.token_type_embeddings\.weight"
    r"|lm_head\.(weight|bias|(dense|layer_norm|decoder)\.(weight|bias))"
)

# Our name of a layer's part -> Hugging Face's name, fair-esm's name.
PARTS = {
    "attention_norm": ("attention.LayerNorm", "self_attn_layer_norm"),
    "q": ("attention.self.query", "self_attn.q_proj"),
    "k": ("attention.self.key", "self_attn.k_proj"),
    "v": ("attention.self.value", "self_attn.v_proj"),
    "out": ("attention.output.dense", "self_attn.out_proj"),
    "ffn_norm": ("LayerNorm", "final_layer_norm"),
    "fc1": ("intermediate.dense", "fc1"),
    "fc2": ("output.dense", "fc2"),
}


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How fair-esm or Hugging Face names tensors; column: the place of its names in PARTS.

    positions, embedding_norm: of ESM-1b and ESM-1v only.
    """

    embedding: str
    positions: str
    embedding_norm: str
    layer: str
    final_norm: str
    column: int

    def part(self, number: int, part: str) -> str:
        """Return how a checkpoint names a part of layer `number`, from 0; part: a key of PARTS."""
        return f"{self.layer}.{number}.{PARTS[part][self.column]}"


HUGGING_FACE = Naming(
    embedding="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    embedding_norm="embeddings.layer_norm",
    layer="encoder.layer",
    final_norm="encoder.emb_layer_norm_after",
    column=0,
)
FAIR_ESM = Naming(
    embedding="embed_tokens",
    positions="embed_positions",
    embedding_norm="emb_layer_norm_before",
    layer="layers",
    final_norm="emb_layer_norm_after",
    column=1,
)
EMBEDDINGS = (f"{HUGGING_FACE.embedding}.weight", f"{FAIR_ESM.embedding}.weight")
LAYERS = (HUGGING_FACE.layer, FAIR_ESM.layer)


def find_naming(state: State) -> Naming:
    """Return HUGGING_FACE or FAIR_ESM, by the names of an encoder's tensors."""
    return HUGGING_FACE if f"{HUGGING_FACE.embedding}.weight" in state else FAIR_ESM


def esm_weights(
    architecture: Esm1bArchitecture | Esm2Architecture, layer: int, state: State
) -> dict[str, Weight]:
    """Return, by name, a Weight for each weight of EsmEncoder(architecture, layer)."""
    naming, width = find_naming(state), architecture.width
    name = f"{naming.embedding}.weight"
    # Some training scripts pad the embedding with rows after those of the alphabet's tokens.
    rows = max(TOKENS, *state[name].shape[:1]) if name in state else TOKENS
    weights = {"embedding.weight": Weight({name: (rows, width)}, lambda words: words[:TOKENS])}
    shapes = {
        "attention_norm": (width,),
        "out": (width, width),
        "ffn_norm": (width,),
        "fc1": (architecture.ffn_width, width),
        "fc2": (width, architecture.ffn_width),
    }
    scale = architecture.head_dim**-0.5
    for number in range(layer):
        for part, shape in shapes.items():
            weights |= weight_and_bias(f"layers.{number}.{part}", naming.part(number, part), *shape)
        for kind, size in (("weight", (width, width)), ("bias", (width,))):
            names = {f"{naming.part(number, part)}.{kind}": size for part in "qkv"}
            # Attention takes the query scaled by 1 / sqrt(head_dim).
            fused = Weight(names, lambda q, k, v: torch.cat((q * scale, k, v)))
            weights[f"layers.{number}.qkv.{kind}"] = fused
    if layer == architecture.layers:
        weights |= weight_and_bias("final_norm", naming.final_norm, width)
    return weights


def read_fields(
    path: Path, config: Mapping[str, Any], required: Mapping[str, tuple[Any, Any]], model: str
) -> dict[str, Any]:
    """Return what config.json says of fields that both families' architectures have.

    The arguments are read_sizes'. Raises ModelError unless model and alphabet are the family's.
    """
    sizes = read_sizes(path, config, required, model)
    check_vocabulary(path, config, ESM, model)
    return sizes | {
        "token_dropout": bool(config.get("token_dropout", False)),
        "layer_norm_eps": config.get("layer_norm_eps", DEFAULT_EPS),
    }


def measure(
    encoder: State, known_heads: Mapping[tuple[int, int], int], model: str
) -> dict[str, Any]:
    """Return the sizes of an official model that the weights' shapes fit; ModelError if none.

    known_heads: the attention heads of each official model, by layers and width: the shapes do not
    show the number. model: the family's name for messages.
    """
    naming = find_naming(encoder)
    layers = count_layers(encoder, lambda number: f"{naming.part(number, 'fc1')}.weight")
    width = encoder[f"{naming.embedding}.weight"].shape[-1]
    if (layers, width) not in known_heads:
        size = f"{count_of(layers, 'layer')} of width {width}"
        raise ModelError(
            f"has weights without settings, and no official {model} has {size}; {FOLDER}"
        )
    heads = known_heads[layers, width]
    return {"layers": layers, "width": width, "heads": heads, "ffn_width": 4 * width}
