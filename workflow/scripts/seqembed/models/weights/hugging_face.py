"""What a Hugging Face folder says of its model, before any weight is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError, named, show
from seqembed.models.encoders.esm2 import ROTARY_BASE
from seqembed.models.encoders.tokenization import ESM2_ALPHABET, BpeTokenizer
from seqembed.models.families import Architecture, DnabertArchitecture, Esm2Architecture
from seqembed.models.source import (
    ADAPTERS,
    CONFIG,
    PICKLED,
    SAFETENSORS,
    TOKENIZER,
    VOCABULARY,
    WEIGHTS,
)
from seqembed.models.weights.dnabert_s import TOKEN_TYPES

EXPECTED = (
    f"a model is a Hugging Face folder ({CONFIG} with {SAFETENSORS} or {PICKLED}) "
    "or a fair-esm file (.pt)"
)

# What config.json must say, and what Hugging Face's EsmConfig takes where it says nothing.
Required = Mapping[str, tuple[Any, Any]]
ESM2_CONFIG: Required = {
    "model_type": ("esm", None),
    "position_embedding_type": ("rotary", "absolute"),
    "emb_layer_norm_before": (False, None),
    "hidden_act": ("gelu", "gelu"),
    "is_folding_model": (False, False),
    "is_decoder": (False, False),
    "rope_theta": (ROTARY_BASE, ROTARY_BASE),
}
# Tokens that a configuration may name. Others mean that it was trained with another alphabet.
ESM2_TOKENS = {
    "pad_token_id": ESM2_ALPHABET.index("<pad>"),
    "mask_token_id": ESM2_ALPHABET.index("<mask>"),
}
# The same for the authors' configuration_bert.py. position_embedding_type says "absolute" there,
# though the model has ALiBi, so it is not asked for.
DNABERT_CONFIG: Required = {
    "model_type": ("bert", None),
    "hidden_act": ("gelu", "gelu"),
    "type_vocab_size": (TOKEN_TYPES, TOKEN_TYPES),
    "is_decoder": (False, False),
    "add_cross_attention": (False, False),
}
# What a setting that is not ESM-2's says of the model.
TELLING: Mapping[tuple[str, Any], str] = {
    ("position_embedding_type", "absolute"): "ESM-1b or ESM-1v",
    ("emb_layer_norm_before", True): "ESM-1b or MSA-1b",
    ("is_folding_model", True): "ESMFold",
}
# Only the BERTs with ALiBi have it.
ALIBI = "alibi_starting_size"
# What else a folder may hold in place of weights that can be read, and what to do.
OTHER_WEIGHTS = {
    "tf_model.h5": ("TensorFlow's weights", "convert them with from_pretrained(from_tf=True)"),
    "flax_model.msgpack": ("Flax's weights", "convert them with from_pretrained(from_flax=True)"),
    "*.distcp": ("a sharded checkpoint of FSDP", "gather it (accelerate merge-weights)"),
    "*model_states.pt": ("a checkpoint of DeepSpeed", "gather it with zero_to_fp32.py"),
    "zero_to_fp32.py": ("a checkpoint of DeepSpeed", "gather it with zero_to_fp32.py"),
    "*.gguf": ("quantised weights (GGUF)", "take the model's weights as safetensors"),
    "*.onnx": ("a program of ONNX", "take the model's weights as safetensors"),
}


def read_architecture(folder: Path) -> Architecture:
    """The architecture that config.json describes, if folder and tokenizer are of a known family.

    Raises:
        ModelError: it is another model, or its tokenizer is not the model's.
    """
    _refuse_adapters(folder)
    path = folder / CONFIG
    config = _read_json(path)
    if config.get("quantization_config") is not None:
        advice = "save the model in fp32, fp16 or bf16"
        raise ModelError(f"{path}: has a quantization_config: the weights are quantised; {advice}")
    if config.get("model_type") == "bert":
        return _dnabert(path, config)
    return _esm2(path, config)


def find_weights(folder: Path) -> Path:
    """The folder's weights, safetensors before pickle; an index if they are split."""
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    for pattern, (what, advice) in OTHER_WEIGHTS.items():
        if any(folder.glob(pattern)):
            raise ModelError(f"{folder}: holds {what}; {advice} and save_pretrained")
    raise ModelError(f"{folder}: has neither {SAFETENSORS} nor {PICKLED}; {EXPECTED}")


def _refuse_adapters(folder: Path) -> None:
    """Refuse a folder of an adapter: the rows would be those of the model without it."""
    for name in ADAPTERS:
        if (folder / name).exists():
            raise ModelError(
                f"{folder / name}: is of an adapter (LoRA or the like); merge it into the model "
                "(PEFT's `merge_and_unload()`) and give the folder of the merged model"
            )


def _esm2(path: Path, config: Mapping[str, Any]) -> Esm2Architecture:
    _check_config(path, config, ESM2_CONFIG, "ESM-2")
    _check_tokens(path, config)
    _check_vocabulary(path, config.get("vocab_size"))
    with named(path):
        return Esm2Architecture(
            **_sizes(config),
            token_dropout=bool(config.get("token_dropout", False)),
        )


def _dnabert(path: Path, config: Mapping[str, Any]) -> DnabertArchitecture:
    if ALIBI not in config:
        raise ModelError(
            f"{path}: model_type is 'bert' and there is no {ALIBI}; of the BERTs only DNABERT-S "
            "and DNABERT-2, which have it, are supported"
        )
    _check_config(path, config, DNABERT_CONFIG, "DNABERT-S")
    vocabulary: Any = config.get("vocab_size")
    with named(path):
        architecture = DnabertArchitecture(**_sizes(config), vocabulary=vocabulary)
    BpeTokenizer(path.parent / TOKENIZER).check(architecture.vocabulary)
    return architecture


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """What both families name alike; the architecture checks the values."""
    return {
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "heads": config.get("num_attention_heads"),
        "ffn_width": config.get("intermediate_size"),
        # Both config classes take 1e-12 where the file says nothing.
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        others = sorted(path.parent.glob("*.pt"))
        hint = f"; for fair-esm's, give {others[0]}" if others else ""
        raise ModelError(f"{path}: does not exist; {EXPECTED}{hint}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: is not a JSON object")
    return config


def _check_config(path: Path, config: Mapping[str, Any], required: Required, model: str) -> None:
    """Refuse what would make the model compute something else than ours does."""
    for name, (value, default) in required.items():
        # null means "not set" to Hugging Face, which then behaves as for false.
        found = config.get(name, default)
        if found != value and not (value is False and found is None):
            raise ModelError(
                f"{path}: {name} is {found!r}{_telling(name, found)}; "
                f"only {model} ({value!r}) is supported"
            )


def _telling(name: str, found: Any) -> str:
    known = next((m for (n, v), m in TELLING.items() if n == name and v == found), None)
    return f", so this is {known}" if known else ""


def _check_tokens(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration, or a tokenizer.json, that gives tokens other ids than ESM-2's."""
    for name, token in ESM2_TOKENS.items():
        if config.get(name, token) not in (None, token):
            message = f"{name} is {config[name]!r}, but {token} in the ESM-2 alphabet"
            raise ModelError(f"{path}: {message}: the model has another tokenizer")
    if config.get("vocab_list") and tuple(config["vocab_list"]) != ESM2_ALPHABET:
        raise ModelError(f"{path}: vocab_list is not the ESM-2 alphabet")
    tokenizer = path.parent / TOKENIZER
    vocabulary = _read_vocabulary(tokenizer) if tokenizer.exists() else {}
    wrong = [t for n, t in enumerate(ESM2_ALPHABET) if vocabulary.get(t, n) != n]
    if wrong:
        raise ModelError(f"{tokenizer}: gives {show(wrong)} other ids than the ESM-2 alphabet")


def _read_vocabulary(path: Path) -> dict[str, Any]:
    """The ids of the tokens in a tokenizer.json."""
    content = _read_json(path)
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    added = content.get("added_tokens")
    tokens = [t for t in added if isinstance(t, dict)] if isinstance(added, list) else []
    pairs = {token.get("content"): token.get("id") for token in tokens}
    return (vocabulary if isinstance(vocabulary, dict) else {}) | pairs


def _check_vocabulary(config: Path, size: Any) -> None:
    """Refuse a tokenizer whose token ids are not ESM-2's; its rows would be silently wrong.

    size: config.json's. More tokens than ESM-2's may stand behind them, as training scripts pad an
    embedding; then vocab.txt has to say that ESM-2's come first.
    """
    path, count = config.parent / VOCABULARY, len(ESM2_ALPHABET)
    tokens = path.read_text("utf-8", errors="replace").split() if path.exists() else None
    if tokens is not None and tuple(tokens[:count]) != ESM2_ALPHABET:
        raise ModelError(f"{path}: is not the ESM-2 alphabet")
    larger = type(size) is int and size > count and tokens is not None
    if size != count and not larger:
        message = f"vocab_size is {size!r}; only ESM-2 ({count}) is supported"
        raise ModelError(f"{config}: {message}, or more with its {VOCABULARY} beside it")
