"""The layout of ESM-1b's and ESM-1v's checkpoints, with Hugging Face's names or with fair-esm's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError, named
from seqembed.models.architectures import Esm1bArchitecture
from seqembed.models.encoders.esm1b import FIRST_POSITION, POSITIONS, Esm1b
from seqembed.models.families import FAMILIES
from seqembed.models.weights import esm
from seqembed.models.weights.formats import State
from seqembed.models.weights.layout import (
    Layout,
    OwnFiles,
    Weight,
    other_setting,
    weight_and_bias,
)

MODEL = "ESM-1b or ESM-1v"
# What fair-esm's files call the architecture.
ARCH = "roberta_large"
# As esm.CONFIG.
CONFIG = esm.CONFIG | {"max_position_embeddings": (POSITIONS, POSITIONS)}
# Both official models have 33 layers and 20 attention heads. Both have token dropout.
KNOWN_HEADS = {(33, 1280): 20}
# fair-esm's name of a setting begins with "encoder_" in the file, and esm/pretrained.py removes it.
SETTINGS = {
    "layers": "encoder_layers",
    "width": "encoder_embed_dim",
    "heads": "encoder_attention_heads",
    "ffn_width": "encoder_ffn_embed_dim",
}


def esm1b_weights(architecture: Esm1bArchitecture, layer: int, state: State) -> dict[str, Weight]:
    """Return a Weight for each weight of Esm1b(architecture, layer), by the weight's name."""
    weights, naming = esm.esm_weights(architecture, layer, state), esm.find_naming(state)
    positions = {f"{naming.positions}.weight": (POSITIONS, architecture.width)}
    weights["positions.weight"] = Weight(positions)
    if architecture.embedding_norm:
        weights |= weight_and_bias("embedding_norm", naming.embedding_norm, architecture.width)
    return weights


def read_config(path: Path, config: Mapping[str, Any]) -> Esm1bArchitecture:
    """Return config.json's architecture; ModelError unless model and alphabet are ESM-1b's."""
    found = esm.read_fields(path, config, CONFIG, MODEL)
    normed = bool(config.get("emb_layer_norm_before"))
    with named(path):
        return Esm1bArchitecture(**found, embedding_norm=normed)


def read_settings(settings: Mapping[str, Any] | None, encoder: State) -> Esm1bArchitecture:
    """Return the architecture of a fair-esm file by its settings, or by its weights' shapes.

    As in fair-esm (has_emb_layer_norm_before in esm/pretrained.py), the weights alone say whether a
    norm follows the embedding.
    """
    normed = f"{esm.find_naming(encoder).embedding_norm}.weight" in encoder
    if settings is None:
        return Esm1bArchitecture(**esm.measure(encoder, KNOWN_HEADS, MODEL), embedding_norm=normed)
    if (arch := settings.get("arch")) != ARCH:
        raise ModelError(other_setting("arch", arch, ARCH, MODEL))
    # The first rows of the table are no positions.
    if (found := settings.get("max_positions")) != POSITIONS - FIRST_POSITION:
        raise ModelError(other_setting("max_positions", found, POSITIONS - FIRST_POSITION, MODEL))
    sizes: Any = {own: settings.get(name) for own, name in SETTINGS.items()}
    dropout = bool(settings.get("token_dropout", False))
    return Esm1bArchitecture(**sizes, embedding_norm=normed, token_dropout=dropout)


LAYOUT = Layout(
    family=FAMILIES["esm1b"],
    encoder=Esm1b,
    prefixes=esm.PREFIXES,
    embeddings=esm.EMBEDDINGS,
    layers=esm.LAYERS,
    unused=re.compile(esm.UNUSED),
    weights=esm1b_weights,
    config={"model_type": "esm", "position_embedding_type": "absolute"},
    read_config=read_config,
    # By transformers' name, the table might be the unused one of an ESM-2.
    own_files=OwnFiles(
        shows=lambda names: any(f".{name}".endswith(".embed_positions.weight") for name in names),
        read_settings=read_settings,
    ),
)
