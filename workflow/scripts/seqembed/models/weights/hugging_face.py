"""A Hugging Face folder: the architecture in its config.json, and the file of its weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError
from seqembed.models.families import Architecture
from seqembed.models.source import (
    ADAPTERS,
    CONFIG,
    PICKLED,
    SAFETENSORS,
    WEIGHTS,
    read_json_object,
)
from seqembed.models.weights.layout import Layout
from seqembed.models.weights.other_models import MERGE, SUPPORTED, UNQUANTISED

EXPECTED = (
    f"a model is a Hugging Face folder ({CONFIG} with {SAFETENSORS} or {PICKLED}) "
    "or a fair-esm file (.pt)"
)
# Files that a folder may hold in place of weights that can be read, and what to do.
OTHER_WEIGHTS = {
    "tf_model.h5": ("TensorFlow's weights", "convert them with from_pretrained(from_tf=True)"),
    "flax_model.msgpack": ("Flax's weights", "convert them with from_pretrained(from_flax=True)"),
    "*.distcp": ("a sharded checkpoint of FSDP", "gather it (accelerate merge-weights)"),
    "zero_to_fp32.py": ("a checkpoint of DeepSpeed", "gather it with zero_to_fp32.py"),
    "*.gguf": ("quantised weights (GGUF)", "take the model's weights as safetensors"),
    "*.onnx": ("a program of ONNX", "take the model's weights as safetensors"),
}


def read_architecture(folder: Path, layouts: Iterable[Layout]) -> Architecture:
    """The architecture that config.json describes; `layouts`: those of the known families.

    Raises ModelError where the folder is of another model, or its tokenizer is not the model's.
    """
    _refuse_adapters(folder)
    path = folder / CONFIG
    config = _read_config(path)
    if config.get("quantization_config") is not None:
        message = "has a quantization_config: the weights are quantised"
        raise ModelError(f"{path}: {message}; {UNQUANTISED}")
    for layout in layouts:
        if layout.model_type == config.get("model_type"):
            return layout.read_config(path, config)
    raise ModelError(f"{path}: model_type is {config.get('model_type')!r}; {SUPPORTED}")


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
    """Refuse the folder of an adapter: the rows would be those of the model without it."""
    for name in ADAPTERS:
        if (folder / name).exists():
            raise ModelError(f"{folder / name}: is of an adapter (LoRA or the like); {MERGE}")


def _read_config(path: Path) -> dict[str, Any]:
    if path.exists():
        return read_json_object(path)
    others = sorted(path.parent.glob("*.pt"))
    hint = f"; for fair-esm's, give {others[0]}" if others else ""
    raise ModelError(f"{path}: does not exist; {EXPECTED}{hint}")
