"""Find the encoder in a checkpoint by the names of its tensors, and refuse what may change it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from seqembed.errors import ModelError, count_of, show
from seqembed.models.weights.layout import Layout
from seqembed.models.weights.tensors import State

SUPPORTED = "only ESM-2, DNABERT-S and DNABERT-2 are supported"
MERGE = "merge it into the model (PEFT's `merge_and_unload()`), save that and give its folder"
UNQUANTISED = "save the model in fp32, fp16 or bf16"
# Names that only the model's own files have, after esm/ of fair-esm 2.0.0 (model/esm1.py,
# model/msa_transformer.py, esmfold/v1/esmfold.py, inverse_folding/), and for Hugging Face's
# folders after transformers' modeling_esm.py, modeling_esmfold.py and modeling_t5.py. ESM C's are
# those of its authors' package esm (esm/models/esmc.py).
OTHER_MODELS = {
    "ESMFold": r"(^|\.)trunk\.blocks\.|(^|\.)esm_s_(mlp|combine)",
    "an MSA transformer (ESM-MSA-1)": r"msa_position_embedding|(row|column)_self_attention",
    "ESM-IF": r"gvp_|(^|\.)embed_graph\.",
    "ESM C or ESM3": r"\.layernorm_qkv\.",
    "ESM-1": r"(^|\.)embed_out(_bias)?$|self_attn\.bias_[kv]$",
    "ESM-1b or ESM-1v": r"embed_positions\.weight|emb_layer_norm_before|embeddings\.layer_norm\.",
    "a model of TensorFlow or Flax": r"/",
    "a T5 (ProtT5, ProstT5, Ankh)": r"\.SelfAttention\.[qkvo]\.",
    "a model of NVIDIA's Transformer Engine": r"\._extra_state$|layernorm_mlp",
}
# Names that tools add to a model's layers. Without these weights the rows would be the base
# model's. The words are those of peft
# (src/peft/tuners), loralib, adapters (src/adapters/methods), bitsandbytes, GPTQ, AWQ, and
# torch.nn.utils.
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
PLAIN = (
    "make them plain (torch.nn.utils.prune.remove, parametrize.remove_parametrizations) and save "
    "the model again"
)
CHANGES = (
    (ADAPTER, "an adapter (LoRA or the like)", MERGE),
    (QUANTISED, "a quantised model", UNQUANTISED),
    (PARAMETRISED, "pruned or parametrised layers", PLAIN),
)

# A head takes the encoder's rows and does not change them: lm_head, classifier, qa_outputs and
# score in transformers, cls in DNABERT's bert_layers.py, encoder.classification_heads in fairseq,
# and whatever users call the heads of their own models. What has another name could come before
# the encoder.
HEAD = re.compile(
    r"head|classif|regress|scor|predict|logit|output|decoder|pooler|proj|dropout|loss|criterion"
    r"|^(cls|out|mlp|fc\d*|linear\d*|dense\d*|final\d*)$",
    re.IGNORECASE,
)
NO_HEAD = re.compile(r"embed|encoder|input|layers?$|attention|attn", re.IGNORECASE)

# A wrapped module has one more part in its names, and the same weights: DataParallel,
# torch.compile, FSDP and activation checkpointing.
WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# transformers 5 saves some LayerNorms under the names of its TensorFlow days.
LEGACY_NAMES = re.compile(r"(?<=\.LayerNorm\.|\.layernorm\.)(?:gamma|beta)$")
TODAY = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class EncoderNames:
    """A checkpoint's tensors by plain name.

    encoder: those below `prefix`, which is taken from their names; beside: the names of the others.
    """

    prefix: str
    encoder: State
    beside: tuple[str, ...]

    def refuse_unknown(self, used: Collection[str], unused: re.Pattern[str]) -> None:
        """Raise ModelError for a tensor that the encoder does not use and that may change a row.

        used: plain names of the tensors that it uses. unused: a pattern; a tensor in the encoder
        whose whole plain name it matches changes no row. Nor does a head, which lies beside the
        encoder or, where names have no prefix, at the top level.
        """
        inside = [name for name in self.encoder if name not in used and not unused.fullmatch(name)]
        if not self.prefix:
            inside = [name for name in inside if not is_head(name)]
        beside = [name for name in self.beside if not is_head(name.removeprefix("encoder."))]
        if unknown := [self.prefix + name for name in inside] + beside:
            raise ModelError(
                f"holds {count_of(len(unknown), 'weight')} that the encoder does not use and that "
                f"may change its rows ({show(unknown)}); if they change none, save the encoder "
                "alone, with its own save_pretrained, and give that folder"
            )


def find_encoder(state: State, layout: Layout) -> EncoderNames:
    """The encoder of a checkpoint of the layout's family.

    Raises ModelError where there is no encoder, more than one, or one of another model.
    """
    plain = _plain_names(state)
    refuse_other_models(plain.keys())
    prefix = _find_prefix(plain, layout)
    encoder = {n.removeprefix(prefix): held for n, held in plain.items() if n.startswith(prefix)}
    return EncoderNames(prefix, encoder, tuple(n for n in plain if not n.startswith(prefix)))


def _plain_names(state: State) -> State:
    """The same tensors without the names of wrappers, and with today's names.

    Raises ModelError where two tensors come to have one name: either could be the right one.
    """
    origins: dict[str, str] = {}
    for name in state:
        plain = LEGACY_NAMES.sub(lambda found: TODAY[found[0]], WRAPPERS.sub("", name))
        if plain in origins:
            both = f"{origins[plain]!r} and {name!r}"
            raise ModelError(f"holds one weight twice, as {both}; save the model without one copy")
        origins[plain] = name
    return {plain: state[name] for plain, name in origins.items()}


def _find_prefix(state: State, layout: Layout) -> str:
    """The prefix of the encoder's names, found by the name of its word embedding."""
    names = layout.embeddings
    found = [(name, own) for name in state for own in names if f".{name}".endswith(f".{own}")]
    if not found:
        raise ModelError(
            f"lacks the weight {' or '.join(map(repr, names))}; it holds "
            f"{count_of(len(state), 'weight')}: {show(list(state))}; save the model with its own "
            "save_pretrained"
        )
    if len(found) > 1:
        both = show([name for name, _ in found])
        raise ModelError(f"holds {len(found)} encoders ({both}); save the one that is meant alone")
    name, own = found[0]
    prefix = name.removesuffix(own)
    if prefix not in layout.prefixes:
        raise ModelError(
            f"lacks the weight {own!r}: its encoder's names begin with {prefix!r}; save the "
            "encoder alone, with its own save_pretrained"
        )
    return prefix


def refuse_other_models(names: Collection[str]) -> None:
    """Raise ModelError for another model, an adapter, quantised or parametrised weights.

    names: plain ones. Heads may be quantised or parametrised, for no row depends on them.
    """
    encoder = [name for name in names if ADAPTER.search(name) or not is_head(name)]
    # A changed model lacks plain weights, so it could seem to be another one.
    for changed, what, advice in CHANGES:
        if found := [name for name in encoder if changed.search(name)]:
            count = count_of(len(found), "weight")
            raise ModelError(f"holds {count} of {what} ({show(found)}); {advice}")
    for model, pattern in OTHER_MODELS.items():
        if any(re.search(pattern, name) for name in names):
            raise ModelError(f"is {model}; {SUPPORTED}")


def is_head(name: str) -> bool:
    """Tell whether a weight's name, without its prefix, begins with the name of a head."""
    module = name.partition(".")[0]
    return HEAD.search(module) is not None and NO_HEAD.search(module) is None
