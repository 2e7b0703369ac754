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
from pathlib import Path
from typing import Any

import torch

from seqembed.errors import ModelError, count_of, named
from seqembed.models.encoders.esmc import Esmc
from seqembed.models.encoders.rotary import ROTARY_BASE
from seqembed.models.families import FAMILIES, EsmcArchitecture
from seqembed.models.vocabularies import ESMC
from seqembed.models.weights.formats import State
from seqembed.models.weights.layout import FOLDER, Layout, OwnFiles, Weight, read_sizes
from seqembed.models.weights.vocabulary import check_vocabulary

# The rows of the embedding; ids after those of the vocabulary's tokens are not in use.
ROWS = 64
# For each setting of config.json: the value that it must have, and its default in transformers'
# EsmcConfig.
CONFIG = {
    "hidden_act": ("silu", "silu"),
    "attention_bias": (False, False),
    "mlp_bias": (False, False),
}
# Our names of sizes -> transformers' names, and those of biohub/ESMC-*.
SIZES = {
    "layers": ("num_hidden_layers", "n_layers"),
    "width": ("hidden_size", "d_model"),
    "heads": ("num_attention_heads", "n_heads"),
}
HEAD_DIM = 64
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


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How a layout names tensors: what comes before a layer's number, and its parts after it.

    qkv: one name, or three; gated: one name, or two. A norm is given as its weight and its bias.
    """

    embedding: str
    layer: str
    final_norm: str
    attention_norm: tuple[str, str]
    qkv: tuple[str, ...]
    q_norm: str
    k_norm: str
    out: str
    ffn_norm: tuple[str, str]
    gated: tuple[str, ...]
    wo: str


_AUTHORS = {
    "embedding": "embed.weight",
    "layer": "transformer.blocks",
    "final_norm": "transformer.norm.weight",
    "q_norm": "attn.q_ln.weight",
    "k_norm": "attn.k_ln.weight",
    "out": "attn.out_proj.weight",
}
FUSED = Naming(
    **_AUTHORS,
    attention_norm=(
        "attn.layernorm_qkv.layer_norm_weight",
        "attn.layernorm_qkv.layer_norm_bias",
    ),
    qkv=("attn.layernorm_qkv.weight",),
    ffn_norm=("ffn.layer_norm_weight", "ffn.layer_norm_bias"),
    gated=("ffn.fc1_weight",),
    wo="ffn.fc2_weight",
)
SEQUENTIAL = Naming(
    **_AUTHORS,
    attention_norm=("attn.layernorm_qkv.0.weight", "attn.layernorm_qkv.0.bias"),
    qkv=("attn.layernorm_qkv.1.weight",),
    ffn_norm=("ffn.0.weight", "ffn.0.bias"),
    gated=("ffn.1.weight",),
    wo="ffn.3.weight",
)
TRANSFORMERS = Naming(
    embedding="embed_tokens.weight",
    layer="layers",
    final_norm="norm.weight",
    attention_norm=("input_layernorm.weight", "input_layernorm.bias"),
    qkv=tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
    q_norm="self_attn.q_norm.weight",
    k_norm="self_attn.k_norm.weight",
    out="self_attn.o_proj.weight",
    ffn_norm=("post_attention_layernorm.weight", "post_attention_layernorm.bias"),
    gated=("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    wo="mlp.down_proj.weight",
)


def find_naming(state: State) -> Naming:
    """Return the Naming of an encoder's tensors, by their names."""
    if TRANSFORMERS.embedding in state:
        return TRANSFORMERS
    fused = any(name.endswith(FUSED.gated) for name in state)
    return FUSED if fused else SEQUENTIAL


def esmc_weights(architecture: EsmcArchitecture, layer: int, state: State) -> dict[str, Weight]:
    """Return a Weight for each weight of Esmc(architecture, layer), by the weight's name."""
    naming, width = find_naming(state), architecture.width
    tokens = len(ESMC.tokens)
    embedding = Weight({naming.embedding: (ROWS, width)}, lambda words: words[:tokens])
    weights = {"embedding.weight": embedding}
    for number in range(layer):
        weights |= _layer_weights(architecture, naming, number)
    if layer == architecture.layers:
        weights["final_norm.weight"] = Weight({naming.final_norm: (width,)})
    return weights


def _layer_weights(
    architecture: EsmcArchitecture, naming: Naming, number: int
) -> dict[str, Weight]:
    """Return a Weight for each weight of layer `number`, from 0."""
    width, ffn_width = architecture.width, architecture.ffn_width
    own, theirs = f"layers.{number}", f"{naming.layer}.{number}"
    # Attention takes the query scaled by 1 / sqrt(head_dim).
    query = architecture.head_dim**-0.5
    branch = (architecture.layers / UNSCALED_LAYERS) ** -0.5

    def stacked(names: tuple[str, ...], rows: int) -> Weight:
        part = (rows // len(names), width)
        return Weight({f"{theirs}.{name}": part for name in names}, lambda *t: torch.cat(t))

    weights = {
        f"{own}.qkv.weight": stacked(naming.qkv, 3 * width),
        f"{own}.gated.weight": stacked(naming.gated, 2 * ffn_width),
    }
    for norm, names in (
        ("attention_norm", naming.attention_norm),
        ("ffn_norm", naming.ffn_norm),
    ):
        for kind, name in zip(("weight", "bias"), names, strict=True):
            weights[f"{own}.{norm}.{kind}"] = Weight({f"{theirs}.{name}": (width,)})
    for part, name, shape, factor in (
        ("q_norm", naming.q_norm, (width,), query),
        ("k_norm", naming.k_norm, (width,), 1.0),
        ("out", naming.out, (width, width), branch),
        ("wo", naming.wo, (width, ffn_width), branch),
    ):
        weights[f"{own}.{part}.weight"] = Weight(
            {f"{theirs}.{name}": shape}, lambda tensor, factor=factor: tensor * factor
        )
    return weights


def ffn_width(width: int) -> int:
    """Return the ffn_width of an ESM C: 8 / 3 of its width, in steps of 256.

    After swiglu_correction_fn in esm/layers/blocks.py.
    """
    return int((8 / 3 * width + 255) // 256 * 256)


def read_config(path: Path, config: Mapping[str, Any]) -> EsmcArchitecture:
    """Return config.json's architecture; ModelError unless model and alphabet are ESM C's."""
    published = "d_model" in config
    renamed = {names[0]: config.get(names[published]) for names in SIZES.values()}
    if published and isinstance(width := config["d_model"], int):
        renamed["intermediate_size"] = ffn_width(width)
    config = {**config, **renamed, "layer_norm_eps": config.get("layer_norm_eps", 1e-5)}
    sizes = read_sizes(path, config, CONFIG, "ESM C")
    check_vocabulary(path, config, ESMC, "ESM C", ROWS)
    with named(path):
        architecture = EsmcArchitecture(**sizes)
        _check_heads(config, architecture)
        return architecture


def _check_heads(config: Mapping[str, Any], architecture: EsmcArchitecture) -> None:
    """Raise ModelError if heads or rotary positions are not ESM C's; config: config.json's."""
    rotary = config.get("rope_parameters") or {}
    wanted = {
        "head_dim": (config.get("head_dim"), architecture.head_dim),
        "num_key_value_heads": (config.get("num_key_value_heads"), architecture.heads),
        "rope_theta": (rotary.get("rope_theta", config.get("rope_theta")), ROTARY_BASE),
        "rope_type": (rotary.get("rope_type"), "default"),
    }
    for name, (found, value) in wanted.items():
        if found not in (None, value):
            message = f"{name} is {found!r}; only ESM C, where it is {value!r}, is supported"
            raise ModelError(message)


def read_settings(_: Mapping[str, Any] | None, encoder: State) -> EsmcArchitecture:
    """Return the architecture of the official model that a .pth file's shapes fit.

    The authors' files have no settings. Raises ModelError if no official model has these shapes.
    """
    naming = find_naming(encoder)
    width = encoder[naming.embedding].shape[-1]
    layers = 0
    while f"{naming.layer}.{layers}.{naming.out}" in encoder:
        layers += 1
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
