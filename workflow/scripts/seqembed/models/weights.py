"""Read ESM-2 checkpoints as weights only: nothing that a file holds is ever executed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seqembed.errors import ModelError
from seqembed.models.esm2 import ALPHABET, ROTARY_BASE, Esm2, Esm2Architecture, load_state
from seqembed.models.source import CONFIG, PICKLED, SAFETENSORS, VOCABULARY

EXPECTED = (
    f"a model is a Hugging Face folder ({CONFIG} with {SAFETENSORS} or {PICKLED}) "
    "or a fair-esm file (.pt)"
)

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


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint holds, under its own names; `path` is the file the tensors come from."""

    architecture: Esm2Architecture
    state: dict[str, Tensor]
    path: Path


def read_checkpoint(source: Path) -> Checkpoint:
    """Read a Hugging Face folder or a fair-esm `.pt` file, without building the model.

    Raises:
        ModelError: the source is neither, is no ESM-2, is damaged, or would execute code.
    """
    if source.is_dir():
        return _read_hugging_face(source)
    if not source.exists():
        raise ModelError(f"{source}: does not exist; {EXPECTED}")
    if source.suffix != ".pt":
        raise ModelError(f"{source}: is not a model that can be read; {EXPECTED}")
    return _read_fair_esm(source)


def build_model(checkpoint: Checkpoint) -> Esm2:
    """The encoder in eval mode, float32; a ModelError names the file."""
    try:
        return load_state(checkpoint.architecture, checkpoint.state)
    except ModelError as error:
        raise ModelError(f"{checkpoint.path}: {error}") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; ModelError if it is damaged or missing."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error


def _load_pickled(path: Path) -> Any:
    """torch.load restricted to tensors, plain containers and argparse.Namespace."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch's reader fail in any of many types
        raise ModelError(f"{path}: cannot be loaded as weights only: {error}") from error


def _check_tensors(path: Path, state: Any) -> dict[str, Tensor]:
    """The state dict as it is, if it maps names to tensors."""
    if not isinstance(state, Mapping) or not state:
        raise ModelError(f"{path}: holds no weights")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ModelError(f"{path}: holds something other than named tensors")
    return dict(state)


def _architecture(path: Path, sizes: Mapping[str, Any]) -> Esm2Architecture:
    """The architecture, or a ModelError with the name of the file that describes it."""
    try:
        return Esm2Architecture(**sizes)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    """config.json, if it describes a rotary ESM-2."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: does not exist; {EXPECTED}") from error
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
    path = folder / VOCABULARY
    if path.exists() and tuple(path.read_text("utf-8", errors="replace").split()) != ALPHABET:
        raise ModelError(f"{path}: is not the ESM-2 alphabet")


def _read_state(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The folder's weights, safetensors before pickle, and the file that they came from."""
    path = folder / SAFETENSORS
    if path.exists():
        return path, read_safetensors(path)
    path = folder / PICKLED
    if path.exists():
        return path, _check_tensors(path, _load_pickled(path))
    for index in sorted(folder.glob("*.index.json")):
        raise ModelError(
            f"{folder}: its weights are split over several files ({index.name}), which is not "
            "supported yet; save them as one file: EsmModel.from_pretrained(this folder)"
            '.save_pretrained(a new folder, max_shard_size="1TB")'
        )
    raise ModelError(f"{folder}: has neither {SAFETENSORS} nor {PICKLED}; {EXPECTED}")


def _read_hugging_face(folder: Path) -> Checkpoint:
    """An ESM-2 that transformers saved."""
    config = _read_config(folder / CONFIG)
    _check_vocabulary(folder)
    sizes = {
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "heads": config.get("num_attention_heads"),
        "ffn_width": config.get("intermediate_size"),
        "token_dropout": bool(config.get("token_dropout", False)),
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
    }
    architecture = _architecture(folder / CONFIG, sizes)
    path, state = _read_state(folder)
    return Checkpoint(architecture=architecture, state=state, path=path)


def _fair_esm_settings(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings: cfg["model"] in ESM-2's checkpoints, args in older ones."""
    cfg = checkpoint.get("cfg")
    found = cfg.get("model") if isinstance(cfg, Mapping) else checkpoint.get("args")
    if isinstance(found, argparse.Namespace):
        found = vars(found)
    if not isinstance(found, Mapping):
        raise ModelError(f"{path}: says nothing of its architecture (no cfg or args)")
    return dict(found)


def _read_fair_esm(path: Path) -> Checkpoint:
    """An ESM-2 checkpoint (.pt) of fair-esm."""
    checkpoint = _load_pickled(path)
    if not isinstance(checkpoint, Mapping):
        raise ModelError(f"{path}: is not a fair-esm checkpoint")
    settings = _fair_esm_settings(path, checkpoint)
    width = settings.get("encoder_embed_dim")
    sizes = {
        "layers": settings.get("encoder_layers"),
        "width": width,
        "heads": settings.get("encoder_attention_heads"),
        # fair-esm's ESM2 is always four times as wide inside.
        "ffn_width": 4 * width if isinstance(width, int) else None,
        "token_dropout": settings.get("token_dropout", False),
    }
    state = _check_tensors(path, checkpoint.get("model"))
    return Checkpoint(architecture=_architecture(path, sizes), state=state, path=path)
