"""How the checkpoints of a family are laid out, and what the families' modules share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seqembed.errors import ModelError
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.families import Architecture, Family
from seqembed.models.weights.tensors import State

# By a setting's name: the value that it must have, and Hugging Face's default for it.
Required = Mapping[str, tuple[Any, Any]]
# Models that another value of a setting gives away.
_OTHER_MODELS: Mapping[tuple[str, Any], str] = {
    ("position_embedding_type", "absolute"): "ESM-1b or ESM-1v",
    ("emb_layer_norm_before", True): "ESM-1b or MSA-1b",
    ("is_folding_model", True): "ESMFold",
}


@dataclass(frozen=True)
class Weight:
    """How one weight of an encoder is made of a checkpoint's tensors.

    parts: their names and shapes; make: joins them, given as float32 in this order.
    """

    parts: Mapping[str, tuple[int, ...]]
    make: Callable[..., Tensor] = lambda tensor: tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of a family's checkpoints.

    prefixes: may stand before the encoder's names. embeddings: the names that the word embedding
    may have. unused: matches the whole name of a tensor in the encoder that no row depends on.
    weights: takes an architecture, a layer and the encoder's tensors, and returns the encoder's
    weights up to that layer, with those of its buffers that the checkpoint holds. model_type: the
    one in config.json. read_config: takes the path and the content of config.json, and returns the
    architecture; it refuses a model or a tokenizer that would give other rows.
    """

    family: Family
    encoder: Callable[[Any, int], Encoder]
    prefixes: tuple[str, ...]
    embeddings: tuple[str, ...]
    unused: re.Pattern[str]
    weights: Callable[[Any, int, State], dict[str, Weight]]
    model_type: str
    read_config: Callable[[Path, Mapping[str, Any]], Architecture]


def weight_and_bias(own: str, name: str, *shape: int) -> dict[str, Weight]:
    """The two weights of a linear part or a norm; own: its name in the encoder."""
    return {
        f"{own}.weight": Weight({f"{name}.weight": shape}),
        f"{own}.bias": Weight({f"{name}.bias": shape[:1]}),
    }


def refuse_more_layers(state: State, names: str, layers: int) -> None:
    """Raise ModelError for a checkpoint of more layers than its settings say.

    names: what the name of each layer begins with, before its number.
    """
    if any(name.startswith(f"{names}.{layers}.") for name in state):
        raise ModelError(
            f"the checkpoint has more layers than the {layers} that its settings give "
            "(num_hidden_layers in config.json); correct them"
        )


def check_config(path: Path, config: Mapping[str, Any], required: Required, model: str) -> None:
    """Raise ModelError for a setting with which the model computes other rows than our encoder."""
    for name, (value, default) in required.items():
        found = config.get(name, default)
        # null means "not set" to Hugging Face, which then behaves as for false.
        if found == value or (value is False and found is None):
            continue
        known = _OTHER_MODELS.get((name, found)) if isinstance(found, str | bool) else None
        other = f", so this is {known}" if known else ""
        message = f"{name} is {found!r}{other}; only {model} ({value!r}) is supported"
        raise ModelError(f"{path}: {message}")


def read_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that EsmConfig and BertConfig name alike; an Architecture checks the values."""
    return {
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "heads": config.get("num_attention_heads"),
        "ffn_width": config.get("intermediate_size"),
        # Both take 1e-12 where the file has no value.
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
    }
