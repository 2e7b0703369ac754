"""The layout of ESM-2's checkpoints, with Hugging Face's names or with fair-esm's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqembed.errors import ModelError, named, show
from seqembed.models.encoders.esm2 import ROTARY_BASE, Esm2
from seqembed.models.encoders.tokenization import ESM2_ALPHABET, read_tokenizer
from seqembed.models.families import ESM2, Esm2Architecture
from seqembed.models.source import TOKENIZER, VOCABULARY
from seqembed.models.weights.formats import State
from seqembed.models.weights.layout import Layout, Weight, read_sizes, weight_and_bias

TOKENS = len(ESM2_ALPHABET)
# For each setting of config.json: the value that it must have, and its default in transformers'
# EsmConfig.
CONFIG = {
    "position_embedding_type": ("rotary", "absolute"),
    "emb_layer_norm_before": (False, None),
    "hidden_act": ("gelu", "gelu"),
    "is_folding_model": (False, False),
    "is_decoder": (False, False),
    "rope_theta": (ROTARY_BASE, ROTARY_BASE),
}
# Settings of config.json that hold a token's id. Another id means another alphabet in training.
NAMED_TOKENS = {"pad_token_id": "<pad>", "mask_token_id": "<mask>"}
# Tensors that change no row. fair-esm's esm2.py and transformers' EsmModel have a contact head,
# fair-esm's ESM2 the language model's head, EsmModel(add_pooling_layer=True) a pooler. The official
# folders have position embeddings that are not used, as positions are rotary (transformers, pull
# request 39063). transformers 4.29 saved position_ids. No EsmModel reads token types.
UNUSED = re.compile(
    r"contact_head\.regression\.(weight|bias)"
    r"|pooler\.dense\.(weight|bias)"
    r"|embeddings\.position_ids"
    r"|embeddings\.(position|token_type)_embeddings\.weight"
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


@dataclass(frozen=True)
class Naming:
    """How fair-esm or Hugging Face names tensors; column: the place of its names in PARTS."""

    embedding: str
    layer: str
    final_norm: str
    column: int

    def part(self, number: int, part: str) -> str:
        """Return how a checkpoint names a part of layer `number`, from 0; part: a key of PARTS."""
        return f"{self.layer}.{number}.{PARTS[part][self.column]}"


HUGGING_FACE = Naming(
    "embeddings.word_embeddings", "encoder.layer", "encoder.emb_layer_norm_after", 0
)
FAIR_ESM = Naming("embed_tokens", "layers", "emb_layer_norm_after", 1)


def find_naming(state: State) -> Naming:
    """Return HUGGING_FACE or FAIR_ESM, by the names of an encoder's tensors."""
    return HUGGING_FACE if f"{HUGGING_FACE.embedding}.weight" in state else FAIR_ESM


def find_rotary(state: State) -> list[str]:
    """Return the names of the rotary frequencies' tensors: one a layer, one for all, or none."""
    return [name for name in state if name.endswith(".inv_freq")]


def esm2_weights(architecture: Esm2Architecture, layer: int, state: State) -> dict[str, Weight]:
    """Return a Weight for each weight of Esm2(architecture, layer), by the weight's name."""
    naming, width = find_naming(state), architecture.width
    name = f"{naming.embedding}.weight"
    # Some training scripts pad the embedding with rows after those of ESM-2's tokens.
    rows = max(TOKENS, *state[name].shape[:1]) if name in state else TOKENS
    weights = {"embedding.weight": Weight({name: (rows, width)}, lambda words: words[:TOKENS])}
    if rotary := find_rotary(state):
        frequencies = dict.fromkeys(rotary, (architecture.head_dim // 2,))
        weights["inv_freq"] = Weight(frequencies, _require_equal)
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


def _require_equal(first: Tensor, *others: Tensor) -> Tensor:
    if not all(torch.equal(first, other) for other in others):
        raise ModelError(
            "its layers have different rotary frequencies (inv_freq), but all layers of an ESM-2 "
            "have the same; take the authors' weights"
        )
    return first


def read_config(path: Path, config: Mapping[str, Any]) -> Esm2Architecture:
    """Return config.json's architecture; ModelError unless model and alphabet are ESM-2's."""
    sizes = read_sizes(path, config, CONFIG, "ESM-2")
    _check_alphabet(path, config)
    with named(path):
        return Esm2Architecture(**sizes, token_dropout=bool(config.get("token_dropout", False)))


def _check_alphabet(path: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError if the alphabet of config.json, tokenizer.json or vocab.txt is not ESM-2's.

    A larger vocab_size (a padded embedding) is accepted if vocab.txt begins with ESM-2's tokens.
    """
    advice = "only models with ESM-2's alphabet are supported"
    for name, token in NAMED_TOKENS.items():
        number = ESM2_ALPHABET.index(token)
        if config.get(name) not in (None, number):
            message = f"{name} is {config[name]!r}, but {number} in ESM-2"
            raise ModelError(f"{path}: {message}; {advice}")
    if config.get("vocab_list") and tuple(config["vocab_list"]) != ESM2_ALPHABET:
        raise ModelError(f"{path}: vocab_list is not the ESM-2 alphabet; {advice}")
    tokenizer, vocabulary = path.parent / TOKENIZER, path.parent / VOCABULARY
    ids = read_tokenizer(tokenizer).get_vocab() if tokenizer.exists() else {}
    if wrong := [t for n, t in enumerate(ESM2_ALPHABET) if ids.get(t, n) != n]:
        message = f"gives {show(wrong)} other ids than the ESM-2 alphabet"
        raise ModelError(f"{tokenizer}: {message}; {advice}")
    tokens = vocabulary.read_text("utf-8", errors="replace").split() if vocabulary.exists() else []
    if vocabulary.exists() and tuple(tokens[:TOKENS]) != ESM2_ALPHABET:
        raise ModelError(f"{vocabulary}: is not the ESM-2 alphabet; {advice}")
    size = config.get("vocab_size")
    padded = type(size) is int and size > TOKENS and tokens
    if size != TOKENS and not padded:
        message = f"vocab_size is {size!r}, but {TOKENS} in ESM-2 (or more, beside a {VOCABULARY})"
        raise ModelError(f"{path}: {message}; {advice}")


LAYOUT = Layout(
    family=ESM2,
    encoder=Esm2,
    # fair-esm removes the last two (upgrade_state_dict in esm/pretrained.py).
    prefixes=("", "esm.", "encoder.sentence_encoder.", "encoder."),
    embeddings=(f"{HUGGING_FACE.embedding}.weight", f"{FAIR_ESM.embedding}.weight"),
    layers=(HUGGING_FACE.layer, FAIR_ESM.layer),
    unused=UNUSED,
    weights=esm2_weights,
    model_type="esm",
    read_config=read_config,
)
