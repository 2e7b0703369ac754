"""ESM-2 in `.pt` files: fair-esm's own, and plain state dicts of the known sizes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError, count_of, named
from seqembed.models.families import Esm2Architecture
from seqembed.models.weights.encoder_names import find_encoder
from seqembed.models.weights.esm2 import HUGGING_FACE, LAYOUT, find_naming, find_rotary
from seqembed.models.weights.tensors import State, check_state, load_pickled

# The attention heads of the official ESM-2s, by layers and width, as their config.json files have
# them. All have token dropout, and are four times as wide inside.
KNOWN_HEADS = {
    (6, 320): 20,
    (12, 480): 20,
    (30, 640): 20,
    (33, 1280): 20,
    (36, 2560): 40,
    (48, 5120): 40,
}
FOLDER = (
    "give the model as a Hugging Face folder (save_pretrained), whose config.json has its sizes"
)


def read_fair_esm(path: Path) -> tuple[Esm2Architecture, State]:
    """The architecture and the tensors of a `.pt` file; ModelError if it is not an ESM-2's."""
    loaded = load_pickled(path)
    settings = None
    if isinstance(loaded, Mapping) and ("cfg" in loaded or "args" in loaded):
        with named(path):
            settings = _read_settings(loaded)
        loaded = loaded.get("model")
    state = check_state(path, loaded)
    with named(path):
        encoder = _find_esm2(state)
        architecture = _measured(encoder) if settings is None else _described(settings)
        return architecture, state


def _read_settings(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's settings: cfg["model"] in ESM-2's checkpoints, args in older models'."""
    cfg = checkpoint.get("cfg")
    found = cfg.get("model") if isinstance(cfg, Mapping) else checkpoint.get("args")
    if isinstance(found, argparse.Namespace):
        found = vars(found)
    if not isinstance(found, Mapping):
        raise ModelError("has no settings (cfg or args) that describe its architecture")
    return found


def _find_esm2(state: State) -> State:
    """The encoder's tensors; ModelError unless its positions are rotary.

    With Hugging Face's names, ESM-1v has the names of ESM-2 and one more: its learned positions.
    """
    encoder = find_encoder(state, LAYOUT).encoder
    learned = "embeddings.position_embeddings.weight" in encoder
    if not find_rotary(encoder) and (find_naming(encoder) is not HUGGING_FACE or learned):
        raise ModelError(
            "has no rotary frequencies (inv_freq), which an ESM-2 stores with its weights; if it "
            f"is one, {FOLDER}"
        )
    return encoder


def _described(settings: Mapping[str, Any]) -> Esm2Architecture:
    """The architecture that fair-esm's settings describe."""
    width: Any = settings.get("encoder_embed_dim")
    layers: Any = settings.get("encoder_layers")
    heads: Any = settings.get("encoder_attention_heads")
    # fair-esm's ESM2 is always four times as wide inside.
    ffn_width: Any = 4 * width if isinstance(width, int) else None
    return Esm2Architecture(layers, width, heads, ffn_width, settings.get("token_dropout", False))


def _measured(encoder: State) -> Esm2Architecture:
    """The architecture of a state dict, which must be of an official size.

    The shapes of its weights do not show the number of heads: KNOWN_HEADS has it.
    """
    naming = find_naming(encoder)
    layers = 0
    while f"{naming.part(layers, 'fc1')}.weight" in encoder:
        layers += 1
    width = encoder[f"{naming.embedding}.weight"].shape[-1]
    if (layers, width) not in KNOWN_HEADS:
        size = f"{count_of(layers, 'layer')} of width {width}"
        raise ModelError(
            f"is a state dict with {size}, which is not the size of an official ESM-2; {FOLDER}"
        )
    return Esm2Architecture(layers, width, KNOWN_HEADS[layers, width], 4 * width)
