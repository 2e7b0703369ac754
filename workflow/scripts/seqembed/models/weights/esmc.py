"""The layout of ESM C's checkpoints, of which there are three: the same weights by other names.

- the folders of biohub/ESMC-*: fused norms and products, as NVIDIA's Transformer Engine has them;
- the files of December 2024 (.pth), written by the authors' package;
- folders that transformers writes, where each product has a weight of its own.

In the first two, q, k and v are the three parts of one product, and gate and up the two of another,
in this order: so says the authors' package (esm/layers/attention.py and esm/layers/blocks.py of
https://github.com/Biohub/esm, commit b6b0e881), and so does transformers (convert_esmc_state_dict
in models/esmc/convert_esmc_checkpoint.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqembed.errors import ModelError, count_of, named
from seqembed.models.architectures import EsmcArchitecture
from seqembed.models.encoders.esmc import Esmc
from seqembed.models.encoders.rotary import ROTARY_BASE
from seqembed.models.families import FAMILIES
from seqembed.models.vocabularies import ESMC
from seqembed.models.weights.formats import State
from seqembed.models.weights.layout import (
    FOLDER,
    SIZES,
    Layout,
    OwnFiles,
    Weight,
    count_layers,
    other_setting,
    read_sizes,
)
from seqembed.models.weights.vocabulary import check_vocabulary

# For each setting of config.json: the value that it must have, and its default in transformers'
# EsmcConfig.
CONFIG = {
    "hidden_act": ("silu", "silu"),
    "attention_bias": (False, False),
    "mlp_bias": (False, False),
    "is_causal": (False, False),
    # Other spellings of rope_parameters, which would scale the angles.
    "rope_scaling": (None, None),
}
# As SIZES, in the config.json of biohub/ESMC-*, where ffn_width follows from the width.
PUBLISHED_SIZES = {"layers": "n_layers", "width": "d_model", "heads": "n_heads"}
MODEL, HEAD_DIM = "ESM C", 64
# The layers of each official ESM C, by width: 300M, 600M, 6B (esm/pretrained.py).
KNOWN_LAYERS = {960: 30, 1152: 36, 2560: 80}
# Depth at which branches are added as they are (residue_scaling_factor in
# esm/layers/transformer_stack.py).
UNSCALED_LAYERS = 36
# Tensors that change no row: the head that predicts residues, and what the Transformer Engine keeps
# of number formats.
UNUSED = re.compile(
    r".*\._extra_state|(lm_head|sequence_head)\.(0|2|3|dense|layer_norm|decoder)\.(weight|bias)"
)


@dataclass(frozen=True)
class Naming:
    """How a layout names tensors; column: the place of its names in PARTS.

    layer: what the names in a layer begin with, before the layer's number.
    """

    embedding: str
    layer: str
    final_norm: str
    column: int

    def parts(self, number: int, own: str) -> list[str]:
        """Return the tensors that are stacked for a weight of layer `number`; own: of PARTS."""
        return [f"{self.layer}.{number}.{name}" for name in PARTS[own][self.column].split()]


FUSED = Naming("embed.weight", "transformer.blocks", "transformer.norm.weight", 0)
SEQUENTIAL = Naming("embed.weight", "transformer.blocks", "transformer.norm.weight", 1)
TRANSFORMERS = Naming("embed_tokens.weight", "layers", "norm.weight", 2)
# Our name of a weight in a layer -> its names in the three layouts.
PARTS = {
    "attention_norm.weight": (
        "attn.layernorm_qkv.layer_norm_weight",
        "attn.layernorm_qkv.0.weight",
        "input_layernorm.weight",
    ),
    "attention_norm.bias": (
        "attn.layernorm_qkv.layer_norm_bias",
        "attn.layernorm_qkv.0.bias",
        "input_layernorm.bias",
    ),
    "qkv.weight": (
        "attn.layernorm_qkv.weight",
        "attn.layernorm_qkv.1.weight",
        "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
    ),
    "q_norm.weight": ("attn.q_ln.weight", "attn.q_ln.weight", "self_attn.q_norm.weight"),
    "k_norm.weight": ("attn.k_ln.weight", "attn.k_ln.weight", "self_attn.k_norm.weight"),
    "out.weight": ("attn.out_proj.weight", "attn.out_proj.weight", "self_attn.o_proj.weight"),
    "ffn_norm.weight": (
        "ffn.layer_norm_weight",
        "ffn.0.weight",
        "post_attention_layernorm.weight",
    ),
    "ffn_norm.bias": ("ffn.layer_norm_bias", "ffn.0.bias", "post_attention_layernorm.bias"),
    "gated.weight": ("ffn.fc1_weight", "ffn.1.weight", "mlp.gate_proj.weight mlp.up_proj.weight"),
    "wo.weight": ("ffn.fc2_weight", "ffn.3.weight", "mlp.down_proj.weight"),
}


def find_naming(state: State) -> Naming:
    """Return the Naming of an encoder's tensors, by their names."""
    if TRANSFORMERS.embedding in state:
        return TRANSFORMERS
    fused = any(name.endswith(PARTS["gated.weight"][FUSED.column]) for name in state)
    return FUSED if fused else SEQUENTIAL


def esmc_weights(architecture: EsmcArchitecture, layer: int, state: State) -> dict[str, Weight]:
    """Return a Weight for each weight of Esmc(architecture, layer), by the weight's name."""
    naming, width, tokens = find_naming(state), architecture.width, len(ESMC.tokens)
    embedding = Weight({naming.embedding: (ESMC.size, width)}, lambda words: words[:tokens])
    weights = {"embedding.weight": embedding}
    shapes = {
        "qkv.weight": (3 * width, width),
        "out.weight": (width, width),
        "gated.weight": (2 * architecture.ffn_width, width),
        "wo.weight": (width, architecture.ffn_width),
    }
    branch = (architecture.layers / UNSCALED_LAYERS) ** -0.5
    # Attention takes the query scaled by 1 / sqrt(head_dim).
    factors = {"q_norm.weight": architecture.head_dim**-0.5}
    factors |= {"out.weight": branch, "wo.weight": branch}
    for number in range(layer):
        for own in PARTS:
            parts, (rows, *columns) = naming.parts(number, own), shapes.get(own, (width,))
            shape, factor = (rows // len(parts), *columns), factors.get(own, 1.0)
            weights[f"layers.{number}.{own}"] = Weight(
                dict.fromkeys(parts, shape), partial(_stack, factor)
            )
    if layer == architecture.layers:
        weights["final_norm.weight"] = Weight({naming.final_norm: (width,)})
    return weights


def _stack(factor: float, *tensors: Tensor) -> Tensor:
    stacked = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    return stacked if factor == 1.0 else stacked * factor


def ffn_width(width: int) -> int:
    """Return the ffn_width of an ESM C: 8 / 3 of its width, in steps of 256.

    After swiglu_correction_fn in esm/layers/blocks.py.
    """
    return int((8 / 3 * width + 255) // 256 * 256)


def read_config(path: Path, config: Mapping[str, Any]) -> EsmcArchitecture:
    """Return config.json's architecture; ModelError unless model and alphabet are ESM C's."""
    sizes = read_sizes(path, config, CONFIG, MODEL, _size_names(path, config))
    if "ffn_width" not in sizes:
        width = sizes["width"]
        sizes["ffn_width"] = ffn_width(width) if isinstance(width, int) else None
    check_vocabulary(path, config, ESMC, MODEL)
    with named(path):
        architecture = EsmcArchitecture(**sizes)
        _check_heads(config, architecture)
        return architecture


def _size_names(path: Path, config: Mapping[str, Any]) -> Mapping[str, str]:
    """Return SIZES or PUBLISHED_SIZES, whichever a config.json has; ModelError if it mixes them."""
    if "d_model" not in config:
        return SIZES
    if both := [SIZES[own] for own in PUBLISHED_SIZES if SIZES[own] in config]:
        message = f"has {both[0]} beside d_model, and may be of two models"
        raise ModelError(f"{path}: {message}; take the authors' settings")
    return PUBLISHED_SIZES


def _check_heads(config: Mapping[str, Any], architecture: EsmcArchitecture) -> None:
    """Raise ModelError if heads or rotary positions are not ESM C's; config: config.json's."""
    rotary = {"rope_theta": ROTARY_BASE, "rope_type": "default"}
    heads = HEAD_DIM if "d_model" in config else config.get("head_dim")
    wanted = {
        "head_dim": (heads, architecture.head_dim),
        "num_key_value_heads": (config.get("num_key_value_heads"), architecture.heads),
        "rope_theta": (config.get("rope_theta"), ROTARY_BASE),
        "rope_parameters": (rotary | (config.get("rope_parameters") or {}), rotary),
    }
    for name, (found, value) in wanted.items():
        if found not in (None, value):
            raise ModelError(other_setting(name, found, value, MODEL))


def read_settings(_: Mapping[str, Any] | None, encoder: State) -> EsmcArchitecture:
    """Return the architecture of the official model that a .pth file's shapes fit.

    The authors' files have no settings. Raises ModelError if no official model has these shapes.
    """
    naming = find_naming(encoder)
    width = encoder[naming.embedding].shape[-1]
    layers = count_layers(encoder, lambda number: naming.parts(number, "out.weight")[0])
    if KNOWN_LAYERS.get(width) != layers:
        size = f"{count_of(layers, 'layer')} of width {width}"
        raise ModelError(f"has no settings, and no official ESM C has {size}; {FOLDER}")
    return EsmcArchitecture(layers, width, width // HEAD_DIM, ffn_width(width))


LAYOUT = Layout(
    family=FAMILIES["esmc"],
    encoder=Esmc,
    prefixes=("", "esmc."),
    embeddings=(FUSED.embedding, TRANSFORMERS.embedding),
    layers=(FUSED.layer, TRANSFORMERS.layer),
    unused=UNUSED,
    weights=esmc_weights,
    config={"model_type": "esmc"},
    read_config=read_config,
    own_files=OwnFiles(
        shows=lambda names: any(".attn.layernorm_qkv." in name for name in names),
        read_settings=read_settings,
    ),
)
