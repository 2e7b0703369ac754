"""Other models and changed ones, recognised by the names of their weights."""

from __future__ import annotations

import re
from collections.abc import Iterable

from seqembed.errors import ModelError, count_of, show
from seqembed.models.weights.heads import is_head

SUPPORTED = "only ESM-2, DNABERT-S and DNABERT-2 are supported"
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
# What tools add to a model's layers, and how the user gets plain weights again. Rows computed
# without the additions would be the base model's. The words are those of peft
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
CHANGES = (
    (
        ADAPTER,
        "of an adapter (LoRA or the like)",
        "merge it into the model (PEFT's `merge_and_unload()`) and save the merged model",
    ),
    (QUANTISED, "of a quantised model", "save the model in fp32, fp16 or bf16"),
    (
        PARAMETRISED,
        "of pruned or parametrised layers",
        "make them plain (torch.nn.utils.prune.remove, parametrize.remove_parametrizations) "
        "and save the model again",
    ),
)


def refuse_other_models(names: Iterable[str]) -> None:
    """Raises ModelError, which says what the model is, for one that is not supported."""
    listed = list(names)
    for model, pattern in OTHER_MODELS.items():
        if any(re.search(pattern, name) for name in listed):
            raise ModelError(f"is {model}; {SUPPORTED}")


def refuse_changes(names: Iterable[str]) -> None:
    """Raises ModelError for weights of adapters, of quantisation, or of parametrised layers.

    names: plain ones. What is done to a head does not matter.
    """
    listed = [name for name in names if ADAPTER.search(name) or not is_head(name)]
    for pattern, what, advice in CHANGES:
        if found := [name for name in listed if pattern.search(name)]:
            count = count_of(len(found), "weight")
            raise ModelError(f"holds {count} {what} ({show(found)}); {advice}")
