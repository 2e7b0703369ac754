"""ESM-2 in `.pt` files: fair-esm's own, and plain state dicts of the known sizes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError, count_of, named
from seqembed.models.families import Esm2Architecture
from seqembed.models.weights.encoder_names import find_encoder, plain_names
from seqembed.models.weights.esm2 import EMBEDDINGS, PREFIXES, naming_of, rotary_names
from seqembed.models.weights.other_models import SUPPORTED, refuse_changes, refuse_other_models
from seqembed.models.weights.pickles import load_pickled
from seqembed.models.weights.tensors import State, check_state_dict

# How fair-esm 2.0.0 tells its older models, which have args in place of cfg, apart
# (esm/pretrained.py).
OTHER_ARCHITECTURES = {
    "roberta_large": "ESM-1b or ESM-1v",
    "protein_bert_base": "ESM-1",
    "msa_transformer": "an MSA transformer (ESM-MSA-1)",
    "invariant_gvp": "ESM-IF",
}
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
FOLDER = "give a Hugging Face folder of it (save_pretrained), whose config.json tells the rest"


def read_fair_esm(path: Path) -> tuple[Esm2Architecture, State]:
    """The architecture and the tensors of a `.pt` file; ModelError if it is no ESM-2's."""
    loaded = load_pickled(path)
    if isinstance(loaded, Mapping) and ("cfg" in loaded or "args" in loaded):
        settings = _settings(path, loaded)
        state = check_state_dict(path, loaded.get("model"))
        with named(path):
            _check_is_esm2(state)
            return _described(settings), state
    state = check_state_dict(path, loaded)
    with named(path):
        _check_is_esm2(state)
        return _plain_architecture(state), state


def _described(settings: Mapping[str, Any]) -> Esm2Architecture:
    """The architecture that fair-esm's settings describe."""
    width = settings.get("encoder_embed_dim")
    sizes: dict[str, Any] = {
        "layers": settings.get("encoder_layers"),
        "width": width,
        "heads": settings.get("encoder_attention_heads"),
        # fair-esm's ESM2 is always four times as wide inside.
        "ffn_width": 4 * width if isinstance(width, int) else None,
        "token_dropout": settings.get("token_dropout", False),
    }
    return Esm2Architecture(**sizes)


def _plain_architecture(state: State) -> Esm2Architecture:
    """The architecture of a state dict, which must be of an official size: the shapes tell no more.

    Whether the stored rotary frequencies fit the heads is checked where they are read.
    """
    encoder = find_encoder(state, PREFIXES, EMBEDDINGS).encoder
    naming = naming_of(encoder)
    layers = 0
    while naming.part(layers, "fc1", "weight") in encoder:
        layers += 1
    width = encoder[f"{naming.embedding}.weight"].shape[-1]
    if (layers, width) not in KNOWN_HEADS:
        size = f"{count_of(layers, 'layer')} of width {width}"
        raise ModelError(f"is a state dict that has {size}, no official ESM-2's size; {FOLDER}")
    heads = KNOWN_HEADS[layers, width]
    return Esm2Architecture(layers=layers, width=width, heads=heads, ffn_width=4 * width)


def _check_is_esm2(state: State) -> None:
    """Raises ModelError unless the names are an ESM-2's, whose positions are rotary.

    ESM-1v differs from it, in Hugging Face's words, by its positions alone.
    """
    names = plain_names(state)
    refuse_changes(names)
    refuse_other_models(names)
    learned = any(name.endswith("position_embeddings.weight") for name in names)
    if rotary_names(names) or (_is_hugging_face(names) and not learned):
        return
    find_encoder(state, PREFIXES, EMBEDDINGS)
    raise ModelError(
        "has no rotary frequencies (inv_freq), which an ESM-2 stores with its weights; if it is "
        f"one, {FOLDER}"
    )


def _is_hugging_face(names: Mapping[str, Any]) -> bool:
    """Whether the word embeddings have the name that Hugging Face gives them."""
    return any(name.endswith(EMBEDDINGS[0]) for name in names)


def _settings(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings: cfg["model"] in ESM-2's checkpoints, args in older ones.

    Raises ModelError for another model's, whose name it gives.
    """
    cfg = checkpoint.get("cfg")
    found = cfg.get("model") if isinstance(cfg, Mapping) else checkpoint.get("args")
    if isinstance(found, argparse.Namespace):
        found = vars(found)
    if not isinstance(found, Mapping):
        raise ModelError(f"{path}: says nothing of its architecture (no cfg or args)")
    if "cfg" not in checkpoint:
        _refuse_other_architectures(path, str(found.get("arch")))
    return dict(found)


def _refuse_other_architectures(path: Path, asked: str) -> None:
    for architecture, model in OTHER_ARCHITECTURES.items():
        if architecture in asked:
            raise ModelError(f"{path}: is {model} of fair-esm; {SUPPORTED}")
