"""Where checkpoints of ESM-2 keep the weights, in Hugging Face's and in fair-esm's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seqembed.errors import ModelError
from seqembed.models.encoders.tokenization import ESM2_ALPHABET
from seqembed.models.families import Esm2Architecture
from seqembed.models.weights.loading import Weight, read_part
from seqembed.models.weights.tensors import State

# The last two are what fair-esm itself removes.
PREFIXES = ("", "esm.", "encoder.sentence_encoder.", "encoder.")
HF_LAYER = {
    "attention_norm": "attention.LayerNorm",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "out": "attention.output.dense",
    "ffn_norm": "LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
FAIR_LAYER = {
    "attention_norm": "self_attn_layer_norm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "ffn_norm": "final_layer_norm",
    "fc1": "fc1",
    "fc2": "fc2",
}


@dataclass(frozen=True)
class Naming:
    """The words of one kind of checkpoints."""

    embedding: str
    layer: str
    parts: Mapping[str, str]
    final_norm: str

    def part(self, number: int, part: str, kind: str) -> str:
        return f"{self.layer}.{number}.{self.parts[part]}.{kind}"


HUGGING_FACE = Naming(
    "embeddings.word_embeddings", "encoder.layer", HF_LAYER, "encoder.emb_layer_norm_after"
)
FAIR_ESM = Naming("embed_tokens", "layers", FAIR_LAYER, "emb_layer_norm_after")
EMBEDDINGS = (f"{HUGGING_FACE.embedding}.weight", f"{FAIR_ESM.embedding}.weight")


def naming_of(state: State) -> Naming:
    """The words of a checkpoint's plain names."""
    return HUGGING_FACE if EMBEDDINGS[0] in state else FAIR_ESM


def rotary_names(state: State) -> list[str]:
    """The names of stored rotary frequencies, of each layer or of all together."""
    return [name for name in state if name.endswith(".inv_freq")]


def esm2_weights(architecture: Esm2Architecture, layer: int, state: State) -> dict[str, Weight]:
    """What Esm2(architecture, layer) is made of; `state` has plain names.

    Raises ModelError for a checkpoint of more layers than the architecture's.
    """
    naming = naming_of(state)
    if naming.part(architecture.layers, "fc1", "weight") in state:
        raise ModelError(
            f"the checkpoint has more than {architecture.layers} layers, the number that its "
            "settings give (num_hidden_layers in config.json); correct them"
        )
    width = architecture.width
    weights = {"embedding.weight": _embedding(f"{naming.embedding}.weight", width, state)}
    for number in range(layer):
        weights |= _layer(architecture, naming, number)
    if layer == architecture.layers:
        for kind in ("weight", "bias"):
            weights[f"final_norm.{kind}"] = Weight({f"{naming.final_norm}.{kind}": (width,)})
    return weights


def esm2_buffers(architecture: Esm2Architecture, state: State) -> dict[str, Tensor]:
    """The checkpoint's rotary frequencies, if it has any.

    Raises ModelError where layers have different ones, or they are not finite.
    """
    names = rotary_names(state)
    shape = (architecture.head_dim // 2,)
    if not names:
        return {}
    # A copy of our own: the file's mapping could not be let go.
    first = read_part(state, names[0], shape).clone()
    if not first.isfinite().all():
        raise ModelError(f"{names[0]!r} holds NaN or infinite values; copy the file again")
    for name in names[1:]:
        if not torch.equal(read_part(state, name, shape), first):
            raise ModelError(f"{names[0]!r} and {name!r} differ; all layers must share one")
    return {"inv_freq": first}


def _embedding(name: str, width: int, state: State) -> Weight:
    """The rows of ESM-2's tokens; those that pad an embedding stand behind them."""
    count = len(ESM2_ALPHABET)
    rows = max(count, *state[name].shape[:1]) if name in state else count
    return Weight({name: (rows, width)}, lambda words: words[:count])


def _layer(architecture: Esm2Architecture, naming: Naming, number: int) -> dict[str, Weight]:
    width, ffn_width = architecture.width, architecture.ffn_width
    sizes = {
        "attention_norm": ((width,), (width,)),
        "out": ((width, width), (width,)),
        "ffn_norm": ((width,), (width,)),
        "fc1": ((ffn_width, width), (ffn_width,)),
        "fc2": ((width, ffn_width), (width,)),
    }
    weights = {}
    for part, (weight, bias) in sizes.items():
        for kind, shape in (("weight", weight), ("bias", bias)):
            name = naming.part(number, part, kind)
            weights[f"layers.{number}.{part}.{kind}"] = Weight({name: shape})
    for kind, shape in (("weight", (width, width)), ("bias", (width,))):
        names = {naming.part(number, part, kind): shape for part in "qkv"}
        weights[f"layers.{number}.qkv.{kind}"] = Weight(names, _fuse(architecture.head_dim**-0.5))
    return weights


def _fuse(scale: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Query, key and value in one, the query scaled as attention wants it."""
    return lambda q, k, v: torch.cat((q * scale, k, v))
