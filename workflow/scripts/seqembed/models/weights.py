"""Load ESM-2 checkpoints as weights only: nothing that a file holds is ever executed."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seqembed.errors import ModelError
from seqembed.models.esm2 import ALPHABET, ROTARY_BASE, Esm2, Esm2Architecture, load_state

# What config.json must say, and what Hugging Face's EsmConfig takes where it says nothing.
REQUIRED_CONFIG: dict[str, tuple[Any, Any]] = {
    "model_type": ("esm", None),
    "position_embedding_type": ("rotary", "absolute"),
    "vocab_size": (len(ALPHABET), None),
    "emb_layer_norm_before": (False, None),
    "hidden_act": ("gelu", "gelu"),
    "is_folding_model": (False, False),
    "is_decoder": (False, False),
    "rope_theta": (ROTARY_BASE, ROTARY_BASE),
}


def _load_pickled(path: Path) -> Any:
    """torch.load restricted to tensors, plain containers and argparse.Namespace."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(f"{path}: cannot be loaded as weights only: {error}") from error


def _check_tensors(path: Path, state: Any) -> dict[str, Tensor]:
    """The state dict as it is, if it maps names to tensors."""
    if not isinstance(state, Mapping) or not state:
        raise ModelError(f"{path}: holds no weights")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ModelError(f"{path}: holds something other than named tensors")
    return dict(state)


def _build(path: Path, architecture: Mapping[str, Any], state: dict[str, Tensor]) -> Esm2:
    """load_state, with the file's name in front of what it says."""
    try:
        return load_state(Esm2Architecture(**architecture), state)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json, if it describes a rotary ESM-2."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: is not a JSON object")
    for name, (required, default) in REQUIRED_CONFIG.items():
        # null means "not set" to EsmConfig, which then behaves as for false.
        found = config.get(name, default)
        if found != required and not (required is False and found is None):
            raise ModelError(f"{path}: {name} is {found!r}; only ESM-2 ({required!r}) is supported")
    return config


def _check_vocabulary(folder: Path) -> None:
    """Refuse a tokenizer whose token ids are not ESM-2's; its rows would be silently wrong."""
    path = folder / "vocab.txt"
    if path.exists() and tuple(path.read_text(encoding="utf-8").split()) != ALPHABET:
        raise ModelError(f"{path}: is not the ESM-2 alphabet")


def _read_state(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The folder's weights, safetensors before pickle, and the file that they came from."""
    path = folder / "model.safetensors"
    if path.exists():
        try:
            return path, load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from error
    path = folder / "pytorch_model.bin"
    if path.exists():
        return path, _check_tensors(path, _load_pickled(path))
    raise ModelError(f"{folder}: has neither model.safetensors nor pytorch_model.bin")


def load_hugging_face(folder: str | Path) -> Esm2:
    """An ESM-2 that transformers saved, in eval mode, float32."""
    folder = Path(folder)
    config = _read_config(folder)
    _check_vocabulary(folder)
    path, state = _read_state(folder)
    architecture = {
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "heads": config.get("num_attention_heads"),
        "ffn_width": config.get("intermediate_size"),
        "token_dropout": bool(config.get("token_dropout", False)),
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
    }
    return _build(path, architecture, state)


def _fair_esm_settings(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings: cfg["model"] in ESM-2's checkpoints, args in older ones."""
    cfg = checkpoint.get("cfg")
    found = cfg.get("model") if isinstance(cfg, Mapping) else checkpoint.get("args")
    if isinstance(found, argparse.Namespace):
        found = vars(found)
    if not isinstance(found, Mapping):
        raise ModelError(f"{path}: says nothing of its architecture (no cfg or args)")
    return dict(found)


def load_fair_esm(path: str | Path) -> Esm2:
    """An ESM-2 checkpoint (.pt) of fair-esm, in eval mode, float32."""
    path = Path(path)
    checkpoint = _load_pickled(path)
    if not isinstance(checkpoint, Mapping):
        raise ModelError(f"{path}: is not a fair-esm checkpoint")
    settings = _fair_esm_settings(path, checkpoint)
    width = settings.get("encoder_embed_dim")
    architecture = {
        "layers": settings.get("encoder_layers"),
        "width": width,
        "heads": settings.get("encoder_attention_heads"),
        # fair-esm's ESM2 is always four times as wide inside.
        "ffn_width": 4 * width if isinstance(width, int) else None,
        "token_dropout": settings.get("token_dropout", False),
    }
    return _build(path, architecture, _check_tensors(path, checkpoint.get("model")))
