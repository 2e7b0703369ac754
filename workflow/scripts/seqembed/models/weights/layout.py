"""The layout of checkpoints: their tensors' names, and the weights that are made of these."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seqembed.errors import ModelError, count_of, show
from seqembed.models.architectures import Architecture
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.families import Family, list_models
from seqembed.models.weights.formats import State

SUPPORTED = f"only {list_models('and')} are supported"
FOLDER = (
    "give the model as a Hugging Face folder with its config.json, as save_pretrained() writes it"
)
MERGE = "merge it into its model (PEFT's `merge_and_unload()`), then save and give the merged model"
UNQUANTISED = "save the model in fp32, fp16 or bf16"
# Models that are not supported, and what only the names of their weights match, after esm/ of
# fair-esm 2.0.0 (model/esm1.py, model/msa_transformer.py, esmfold/v1/esmfold.py, inverse_folding/),
# transformers (modeling_esmfold.py), the package of ESM3's authors
# (esm/models/esm3.py) and NVIDIA's models, which have names and scales of their own.
OTHER_MODELS = {
    "ESMFold": r"(^|\.)trunk\.blocks\.|(^|\.)esm_s_(mlp|combine)",
    "an MSA transformer (ESM-MSA-1)": r"msa_position_embedding|(row|column)_self_attention",
    "ESM-IF": r"gvp_|(^|\.)embed_graph\.",
    "ESM3": r"\.geom_attn\.|(^|\.)encoder\.sequence_embed\.",
    "ESM-1": r"(^|\.)embed_out(_bias)?$|self_attn\.bias_[kv]$",
    "a model of TensorFlow or Flax": r"/",
    "a model of NVIDIA's Transformer Engine": r"layernorm_mlp|self_attention\.layernorm_qkv",
}
# Names that tools add to a model's weights: peft (src/peft/tuners), loralib, adapters
# (src/adapters/methods), bitsandbytes, GPTQ, AWQ, torch.nn.utils. Without what these tools changed,
# the rows would be the base model's.
ADAPTER = re.compile(
    r"(?:^|[._])(?:lora\w*|lokr|loha|hada|ia3|dora|vera|oft|boft|fourierft|refts?|adapters?|adaptor"
    r"|prefix|prompts?|soft_prompt|virtual_tokens|invertible_adapters|base_model\.model|base_layer"
    r"|modules_to_save|trainable_tokens)(?:[._]|$)",
    re.IGNORECASE,
)
QUANTISED = re.compile(
    r"(?:^|[._])(?:qweight|qzeros|scales|g_idx|SCB|absmax|quant_map|quant_state|weight_format"
    r"|(?:weight|input|output)_scale(?:_inv)?|weight_packed|zero_points?|_packed_params)(?:[._]|$)"
)
PARAMETRISED = re.compile(r"(?:weight|bias)_(?:orig|mask)$|weight_[gv]$|(?:^|\.)parametrizations\.")
UNDO = "undo that (torch.nn.utils.prune.remove, parametrize.remove_parametrizations) and save again"
CHANGES = (
    (ADAPTER, "an adapter (LoRA or the like)", MERGE),
    (QUANTISED, "a quantised model", UNQUANTISED),
    (PARAMETRISED, "pruned or parametrised layers", UNDO),
)
# The names of heads, which take the encoder's rows and do not change them: lm_head, classifier,
# qa_outputs and score in transformers, cls in DNABERT's bert_layers.py, classification_heads in
# fairseq, and names that users choose. A module of any other name may change the rows.
HEAD = re.compile(
    r"head|classif|regress|scor|predict|logit|output|decoder|pooler|proj|dropout|loss|criterion"
    r"|^(cls|out|mlp|fc\d*|linear\d*|dense\d*|final\d*)$",
    re.IGNORECASE,
)
NO_HEAD = re.compile(r"embed|encoder|input|layers?$|attention|attn", re.IGNORECASE)

# What DataParallel, torch.compile, FSDP and activation checkpointing add to the names of weights.
WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# transformers 5 saves some LayerNorms under these old names.
LEGACY_NAMES = re.compile(r"(?<=\.LayerNorm\.|\.layernorm\.)(?:gamma|beta)$")
TODAY = {"gamma": "weight", "beta": "bias"}
# The fields of Architecture, and what transformers calls them in config.json.
SIZES = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "ffn_width": "intermediate_size",
}
# The layer_norm_eps of EsmConfig and BertConfig in transformers, if config.json has none.
DEFAULT_EPS = 1e-12
NOTHING = re.compile(r"(?!)")


@dataclass(frozen=True)
class Weight:
    """How one weight of an encoder is made from a checkpoint's tensors.

    parts: the names of these tensors, each with its shape. make: takes the tensors, in the order of
    `parts` and as float32, and returns the weight.
    """

    parts: Mapping[str, tuple[int, ...]]
    make: Callable[..., Tensor] = lambda tensor: tensor


@dataclass(frozen=True, kw_only=True)
class OwnFiles:
    """How a file that a family's authors publish is read, without config.json.

    shows: whether the names of all tensors in a file show that it is of this family. read_settings:
    takes the settings in the file, None if it has none, and the encoder's tensors, and returns the
    architecture; raises ModelError.
    """

    shows: Callable[[Collection[str]], bool]
    read_settings: Callable[[Mapping[str, Any] | None, State], Architecture]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """How a family's checkpoints name their tensors, and which weights are made of these.

    encoder: takes an architecture and a layer, and returns the encoder up to that layer. prefixes:
    what the names of an encoder's tensors may begin with. embeddings: the names, after the prefix,
    that the word embedding may have. layers: what the names in a layer may begin with, before
    the number. unused: matches the whole name of a tensor that changes no row; nothing by default.
    left_out: likewise, of one that is not written when weights are converted.
    weights: takes an architecture, a layer and the encoder's tensors, and returns, by name, a
    Weight for each weight up to that layer and for each buffer in the checkpoint.

    config: the settings of config.json, and their values, that show the family; model_type is one.
    read_config: takes the path and the content of config.json, and returns the architecture; raises
    ModelError for a model or a tokenizer that would give other rows. own_files: how a file without
    config.json is read; None if models of this family are read from folders only.
    """

    family: Family
    encoder: Callable[[Any, int], Encoder]
    prefixes: tuple[str, ...]
    embeddings: tuple[str, ...]
    layers: tuple[str, ...]
    unused: re.Pattern[str] = NOTHING
    left_out: re.Pattern[str] = NOTHING
    weights: Callable[[Any, int, State], dict[str, Weight]]
    config: Mapping[str, object]
    read_config: Callable[[Path, Mapping[str, Any]], Architecture]
    own_files: OwnFiles | None = None


def weight_and_bias(own: str, name: str, *shape: int) -> dict[str, Weight]:
    """Return a Weight for the weight and for the bias of a linear part or a norm, by name.

    own: the part's name in the encoder. name: its name in checkpoints. shape: the weight's shape.
    """
    return {
        f"{own}.weight": Weight({f"{name}.weight": shape}),
        f"{own}.bias": Weight({f"{name}.bias": shape[:1]}),
    }


def read_sizes(
    path: Path,
    config: Mapping[str, Any],
    required: Mapping[str, tuple[Any, Any]],
    model: str,
    names: Mapping[str, str] = SIZES,
) -> dict[str, Any]:
    """Return the sizes in config.json, whatever they are, by the names of Architecture's fields.

    path: config.json. config: its content. required: other settings, each with the value that it
    must have, and the value that counts if it is absent. model: the family's name for messages.
    names: the fields, and what config.json calls them. Raises ModelError if a size is absent, or if
    another setting does not have its value: the model would give other rows.
    """
    for name, (value, default) in required.items():
        found = config.get(name, default)
        # transformers reads null as "not set", which has the effect of false.
        if found != value and not (value is False and found is None):
            raise ModelError(f"{path}: {other_setting(name, found, value, model)}")
    if absent := [name for name in names.values() if config.get(name) is None]:
        raise ModelError(f"{path}: lacks {', '.join(absent)}; take the authors' settings")
    return {own: config[name] for own, name in names.items()}


def other_setting(name: str, found: object, value: object, model: str) -> str:
    """Return the message on a setting of config.json that has a value other than the model's."""
    message = f"{name} is {found!r}; only {model}, where it is {value!r}, is supported"
    return f"{message}; take the authors' settings"


def count_layers(encoder: State, name: Callable[[int], str]) -> int:
    """Return how many layers an encoder has; name: returns a tensor's name in a layer, from 0."""
    return next(number for number in itertools.count() if name(number) not in encoder)


def refuse_unknown(state: State, layout: Layout, used: Collection[str]) -> None:
    """Raise ModelError if a model's weights hold a tensor that is not used, but may be needed.

    used: the names, without the prefix, of the encoder's tensors that are used. Tensors of heads
    such as lm_head are allowed, because they change no row.
    """
    plain = _plain_names(state)
    prefix = _find_prefix(plain, layout)
    unknown = []
    for name in plain:
        inside = name.startswith(prefix)
        own = name.removeprefix(prefix if inside else "encoder.")
        harmless = inside and (own in used or layout.unused.fullmatch(own))
        if not harmless and ((inside and prefix) or not is_head(own)):
            unknown.append(name)
    if unknown:
        raise ModelError(
            f"holds {count_of(len(unknown), 'weight')} unknown to seqembed ({show(unknown)}), so "
            "the model is refused; if you know that the embeddings do not depend on unknown "
            "weights, save a copy of the model without them, and give the folder of the copy"
        )


def find_encoder(state: State, layout: Layout) -> State:
    """Return the tensors of the only encoder in a checkpoint, by name without the prefix.

    layout: that of its family. Raises ModelError if there is no encoder or more than one, or if the
    model is an adapter, quantised, pruned, parametrised or of another family.
    """
    plain = _plain_names(state)
    # No row depends on a head, so a head may be quantised or parametrised.
    names = [name for name in plain if ADAPTER.search(name) or not is_head(name)]
    # A changed model lacks weights and could look like another model, so changes come first.
    for changed, what, advice in CHANGES:
        if found := [name for name in names if changed.search(name)]:
            count = count_of(len(found), "weight")
            raise ModelError(f"holds {count} of {what} ({show(found)}); {advice}")
    for model, pattern in OTHER_MODELS.items():
        if any(re.search(pattern, name) for name in plain):
            raise ModelError(f"is {model}; {SUPPORTED}")
    prefix = _find_prefix(plain, layout)
    return {n.removeprefix(prefix): held for n, held in plain.items() if n.startswith(prefix)}


def _plain_names(state: State) -> State:
    """Return the tensors by today's names without WRAPPERS; ModelError if two get the same name."""
    origins: dict[str, str] = {}
    for name in state:
        plain = LEGACY_NAMES.sub(lambda found: TODAY[found[0]], WRAPPERS.sub("", name))
        if plain in origins:
            both = f"{origins[plain]!r} and {name!r}"
            raise ModelError(f"holds one weight twice, as {both}; save the model with only one")
        origins[plain] = name
    return {plain: state[name] for plain, name in origins.items()}


def _find_prefix(state: State, layout: Layout) -> str:
    """Return the prefix that an encoder's names have in a checkpoint, by the word embedding's."""
    names = layout.embeddings
    found = [(name, own) for name in state for own in names if f".{name}".endswith(f".{own}")]
    if not found:
        raise ModelError(
            f"lacks the weight {' or '.join(map(repr, names))}; it holds "
            f"{count_of(len(state), 'weight')}: {show(list(state))}; save the whole model again "
            "with its save_pretrained()"
        )
    # A T5 may hold its words by two names.
    encoders = {name.removesuffix(own): (name, own) for name, own in found}
    if len(encoders) > 1:
        both = show([name for name, _ in encoders.values()])
        raise ModelError(f"holds {len(encoders)} encoders ({both}); save only the one you mean")
    prefix, (name, own) = encoders.popitem()
    if prefix not in layout.prefixes:
        raise ModelError(
            f"lacks the weight {own!r}, but has {name!r}; save the encoder alone with its "
            "save_pretrained()"
        )
    return prefix


def is_left_out(name: str, layout: Layout) -> bool:
    """Whether a tensor of a checkpoint, by its whole name, is not written in a conversion."""
    plain = WRAPPERS.sub("", name)
    return any(layout.left_out.fullmatch(plain.removeprefix(p)) for p in layout.prefixes)


def is_head(name: str) -> bool:
    """Whether a tensor's name, without the encoder's prefix, is that of a head such as lm_head."""
    module = name.partition(".")[0]
    return HEAD.search(module) is not None and NO_HEAD.search(module) is None
