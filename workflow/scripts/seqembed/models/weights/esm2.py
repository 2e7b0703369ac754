"""The layout of ESM-2's checkpoints, with Hugging Face's names or with fair-esm's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqembed.errors import ModelError, named
from seqembed.models.architectures import Esm2Architecture
from seqembed.models.encoders.esm2 import Esm2
from seqembed.models.encoders.rotary import ROTARY_BASE
from seqembed.models.families import FAMILIES
from seqembed.models.weights import esm
from seqembed.models.weights.formats import State
from seqembed.models.weights.layout import Layout, OwnFiles, Weight

# As esm.CONFIG.
CONFIG = esm.CONFIG | {
    "emb_layer_norm_before": (False, None),
    "rope_theta": (ROTARY_BASE, ROTARY_BASE),
}
# The official folders have position embeddings that are not used, as positions are rotary
# (transformers, pull request 39063).
UNUSED = re.compile(esm.UNUSED + r"|embeddings\.position_embeddings\.weight")
# The number of attention heads of each official ESM-2, by layers and width, after its config.json.
# All have token dropout, and ffn_width is 4 * width.
KNOWN_HEADS = {
    (6, 320): 20,
    (12, 480): 20,
    (30, 640): 20,
    (33, 1280): 20,
    (36, 2560): 40,
    (48, 5120): 40,
}


def esm2_weights(architecture: Esm2Architecture, layer: int, state: State) -> dict[str, Weight]:
    """Return a Weight for each weight of Esm2(architecture, layer), by the weight's name."""
    weights = esm.esm_weights(architecture, layer, state)
    if rotary := [name for name in state if name.endswith(".inv_freq")]:
        # One a layer, or one for all.
        frequencies = dict.fromkeys(rotary, (architecture.head_dim // 2,))
        weights["inv_freq"] = Weight(frequencies, _require_equal)
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
    found = esm.read_fields(path, config, CONFIG, "ESM-2")
    with named(path):
        return Esm2Architecture(**found)


def read_settings(settings: Mapping[str, Any] | None, encoder: State) -> Esm2Architecture:
    """Return the architecture of a fair-esm file by its settings, or by its weights' shapes."""
    if settings is None:
        return Esm2Architecture(**esm.measure(encoder, KNOWN_HEADS, "ESM-2"))
    # fair-esm's ESM2 has no setting for ffn_width (esm/model/esm2.py).
    width: Any = settings.get("encoder_embed_dim")
    ffn_width = 4 * width if isinstance(width, int) else None
    layers, heads = settings.get("encoder_layers"), settings.get("encoder_attention_heads")
    sizes: Any = (layers, width, heads, ffn_width, settings.get("token_dropout", False))
    return Esm2Architecture(*sizes)


def shows_esm2(names: Collection[str]) -> bool:
    """Whether these are the names of an ESM-2's tensors: positions are rotary.

    fair-esm stores rotary frequencies, and transformers may. A table of positions by transformers'
    name, without them, may be ESM-1v's, or the unused one of an ESM-2.
    """
    if any(name.endswith(".inv_freq") for name in names):
        return True
    words, table = esm.HUGGING_FACE.embedding, esm.HUGGING_FACE.positions
    return any(words in name for name in names) and not any(table in name for name in names)


LAYOUT = Layout(
    family=FAMILIES["esm2"],
    encoder=Esm2,
    prefixes=esm.PREFIXES,
    embeddings=esm.EMBEDDINGS,
    layers=esm.LAYERS,
    unused=UNUSED,
    weights=esm2_weights,
    config={"model_type": "esm", "position_embedding_type": "rotary"},
    read_config=read_config,
    own_files=OwnFiles(shows=shows_esm2, read_settings=read_settings),
)
