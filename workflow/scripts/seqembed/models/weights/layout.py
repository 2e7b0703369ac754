"""How the checkpoints of a family are laid out, and functions that the families share."""

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

# The models that have these values of settings.
_OTHER_MODELS: Mapping[tuple[str, Any], str] = {
    ("position_embedding_type", "absolute"): "ESM-1b or ESM-1v",
    ("emb_layer_norm_before", True): "ESM-1b or MSA-1b",
    ("is_folding_model", True): "ESMFold",
}


@dataclass(frozen=True)
class Weight:
    """How one weight of an encoder is made of a checkpoint's tensors.

    parts: the tensors' names and shapes. make: takes these tensors, in this order and as float32.
    """

    parts: Mapping[str, tuple[int, ...]]
    make: Callable[..., Tensor] = lambda tensor: tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of a family's checkpoints.

    prefixes: the prefixes that the encoder's tensors may have. embeddings: the names that the word
    embedding may have. unused: matches the whole name of a tensor that changes no row. weights:
    takes an architecture, a layer and the encoder's tensors, and returns the encoder's weights up
    to that layer, and the buffers that the checkpoint holds. model_type: the one in config.json.
    read_config: takes the path and the content of config.json, and returns the architecture;
    raises ModelError for a model or a tokenizer that would give other rows.
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
    """Return both weights of a linear part or a norm, named `own` here, `name` in checkpoints."""
    return {
        f"{own}.weight": Weight({f"{name}.weight": shape}),
        f"{own}.bias": Weight({f"{name}.bias": shape[:1]}),
    }


def refuse_more_layers(state: State, names: str, layers: int) -> None:
    """Raise ModelError if there are more layers; names: how their names begin, before a number."""
    if any(name.startswith(f"{names}.{layers}.") for name in state):
        raise ModelError(
            f"the checkpoint has more layers than the {layers} that its settings give "
            "(num_hidden_layers in config.json); correct them"
        )


def read_sizes(
    path: Path, config: Mapping[str, Any], required: Mapping[str, tuple[Any, Any]], model: str
) -> dict[str, Any]:
    """Return the sizes in config.json, whose values an Architecture checks.

    required: for each setting, the value that it must have and Hugging Face's default. Raises
    ModelError for another value, with which the model computes other rows than our encoder.
    """
    for name, (value, default) in required.items():
        found = config.get(name, default)
        # null means "not set" to Hugging Face, which then behaves as for false.
        if found == value or (value is False and found is None):
            continue
        known = _OTHER_MODELS.get((name, found)) if isinstance(found, str | bool) else None
        other = f", so this is {known}" if known else ""
        message = f"{name} is {found!r}{other}; only {model} ({value!r}) is supported"
        raise ModelError(f"{path}: {message}")
    return {
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "heads": config.get("num_attention_heads"),
        "ffn_width": config.get("intermediate_size"),
        # EsmConfig and BertConfig take 1e-12 if the file has no value.
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
    }
