"""The layouts of ProtT5's, ProstT5's and Ankh's checkpoints: all those of transformers' T5.

A whole T5 has a decoder and a head, too, which change no row of the encoder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqembed.errors import ModelError, named
from seqembed.models.architectures import T5_ACTIVATIONS, T5Architecture
from seqembed.models.encoders.t5 import T5
from seqembed.models.encoders.tokenization import complete_vocabulary
from seqembed.models.families import FAMILIES
from seqembed.models.source import TOKENIZER
from seqembed.models.weights.formats import State
from seqembed.models.weights.layout import FOLDER, Layout, OwnFiles, Weight, read_sizes
from seqembed.models.weights.vocabulary import check_vocabulary

# As layout.SIZES, in T5's config.json.
SIZES = {
    "layers": "num_layers",
    "width": "d_model",
    "heads": "num_heads",
    "ffn_width": "d_ff",
    "head_width": "d_kv",
    "vocabulary": "vocab_size",
}
# Other fields of T5Architecture: their names in config.json, and the defaults of transformers'
# T5Config.
SETTINGS: dict[str, tuple[str, Any]] = {
    "activation": ("feed_forward_proj", "relu"),
    "buckets": ("relative_attention_num_buckets", 32),
    "max_distance": ("relative_attention_max_distance", 128),
    "layer_norm_eps": ("layer_norm_epsilon", 1e-6),
}
# The words of encoder and decoder are one weight, which a file may hold by either name.
WORDS = ("shared.weight", "encoder.embed_tokens.weight")
# A whole T5's decoder has them, too. If safetensors writes a weight by one of its names only, it
# takes the first name of the alphabet.
DECODER_WORDS = "decoder.embed_tokens.weight"
LAYER = "encoder.block"
BIASES = f"{LAYER}.0.layer.0.SelfAttention.relative_attention_bias.weight"
UNUSED = re.compile(r"decoder\..+|lm_head\.weight")
# The decoder's words may be the only ones in a file.
LEFT_OUT = re.compile(r"decoder\.(?!embed_tokens\.).+|lm_head\.weight")


def t5_weights(architecture: T5Architecture, layer: int, state: State) -> dict[str, Weight]:
    """Return a Weight for each weight of T5(architecture, layer), by the weight's name."""
    width, ffn_width = architecture.width, architecture.ffn_width
    attended = architecture.heads * architecture.head_dim
    held = [name for name in WORDS if name in state] or [DECODER_WORDS]
    words = dict.fromkeys(held, (architecture.vocabulary, width))
    weights = {
        "embedding.weight": Weight(words, _require_equal),
        "bias_table": Weight({BIASES: (architecture.buckets, architecture.heads)}),
    }
    wi = "wi_0 wi_1" if architecture.gated else "wi"
    # Our name of a layer's weight -> what is stacked for it, and the shape of each.
    parts: dict[str, tuple[str, str, tuple[int, ...]]] = {
        "qkv": ("layer.0.SelfAttention", "q k v", (attended, width)),
        "out": ("layer.0.SelfAttention", "o", (width, attended)),
        "wi": ("layer.1.DenseReluDense", wi, (ffn_width, width)),
        "wo": ("layer.1.DenseReluDense", "wo", (width, ffn_width)),
        "attention_norm": ("layer.0", "layer_norm", (width,)),
        "ffn_norm": ("layer.1", "layer_norm", (width,)),
    }
    for number in range(layer):
        for own, (place, names, shape) in parts.items():
            found = (f"{LAYER}.{number}.{place}.{name}.weight" for name in names.split())
            weights[f"layers.{number}.{own}.weight"] = Weight(dict.fromkeys(found, shape), _stack)
    if layer == architecture.layers:
        weights["final_norm.weight"] = Weight({"encoder.final_layer_norm.weight": (width,)})
    return weights


def _stack(*tensors: Tensor) -> Tensor:
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def _require_equal(first: Tensor, *others: Tensor) -> Tensor:
    if not all(torch.equal(first, other) for other in others):
        message = f"has different values in {' and '.join(WORDS)}, which are one weight in a T5"
        raise ModelError(f"{message}; take the authors' weights")
    return first


def read_config(family: str, path: Path, config: Mapping[str, Any]) -> T5Architecture:
    """Return config.json's architecture; ModelError unless model and tokens are the family's.

    family: a key of FAMILIES.
    """
    facts = FAMILIES[family]
    kind: Any = facts.architecture
    model = facts.models[0]
    sizes = read_sizes(path, config, {"is_decoder": (False, False)}, model, SIZES)
    fields = {own: config.get(name, default) for own, (name, default) in SETTINGS.items()}
    with named(path):
        architecture: T5Architecture = kind(**sizes, **fields)
        _check_activation(config, fields["activation"])
    vocabulary = facts.vocabulary
    assert vocabulary
    if facts.reads_tokenizer:
        vocabulary = complete_vocabulary(vocabulary, path.parent / TOKENIZER)
    built_in = not facts.reads_tokenizer
    check_vocabulary(path, config, vocabulary, model, built_in=built_in)
    return architecture


def _check_activation(config: Mapping[str, Any], activation: str) -> None:
    """Raise ModelError if config.json names two activations; it has the name in two forms."""
    expected = T5_ACTIVATIONS[activation]
    if (found := config.get("dense_act_fn") or expected) != expected:
        message = f"feed_forward_proj is {activation!r}, but dense_act_fn is {found!r}"
        raise ModelError(f"{message}; take the authors' settings")


def _shows_t5(names: Collection[str]) -> bool:
    return any(".SelfAttention." in name for name in names)


def _refuse_file(_: Mapping[str, Any] | None, encoder: State) -> T5Architecture:
    raise ModelError(f"is a T5 (ProtT5, ProstT5, Ankh) without its settings; {FOLDER}")


def _layout(family: str) -> Layout:
    facts = FAMILIES[family]
    assert facts.vocabulary
    return Layout(
        family=facts,
        encoder=T5,
        # transformers' T5ForTokenClassification and -SequenceClassification have the second one.
        prefixes=("", "transformer."),
        embeddings=(*WORDS, DECODER_WORDS),
        layers=(LAYER,),
        unused=UNUSED,
        left_out=LEFT_OUT,
        weights=t5_weights,
        # All T5 have one model_type. These have vocabularies of different sizes.
        config={"model_type": "t5", "vocab_size": facts.vocabulary.size},
        read_config=partial(read_config, family),
        own_files=OwnFiles(shows=_shows_t5, read_settings=_refuse_file),
    )


LAYOUTS = tuple(map(_layout, ("prot_t5", "prost_t5", "ankh", "ankh3")))
