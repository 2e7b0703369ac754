"""Read a checkpoint: a Hugging Face folder of any family, or an ESM-2's `.pt` file."""

from __future__ import annotations

from dataclasses import dataclass
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
from seqembed.models.weights import dnabert_s, esm2
from seqembed.models.weights.fair_esm import read_fair_esm
from seqembed.models.weights.layout import Layout
from seqembed.models.weights.other_models import MERGE, SUPPORTED, UNQUANTISED
from seqembed.models.weights.tensors import State, read_state

# A new family adds its own here.
LAYOUTS = (esm2.LAYOUT, dnabert_s.LAYOUT)
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
OTHER_SUFFIXES = {
    ".ckpt": " but a checkpoint of training (Lightning's): save the weights in it alone",
    ".safetensors": ": give the folder it lies in",
    ".bin": ": give the folder it lies in",
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint's tensors under their own names; `path` is the file they come from."""

    architecture: Architecture
    state: State
    path: Path

    @property
    def layout(self) -> Layout:
        kind = type(self.architecture)
        return next(layout for layout in LAYOUTS if layout.family.architecture is kind)


def read_checkpoint(source: Path) -> Checkpoint:
    """Read a Hugging Face folder or an ESM-2's `.pt` file, without building the model.

    Raises ModelError where it is neither, is damaged, or is not of a known family.
    """
    if source.is_dir():
        architecture, path = _read_architecture(source), _find_weights(source)
        return Checkpoint(architecture=architecture, state=read_state(path), path=path)
    if not source.exists():
        raise ModelError(f"{source}: does not exist; {EXPECTED}")
    if source.suffix != ".pt":
        advice = OTHER_SUFFIXES.get(source.suffix, "")
        raise ModelError(f"{source}: is not a model that can be read{advice}; {EXPECTED}")
    architecture, state = read_fair_esm(source)
    return Checkpoint(architecture=architecture, state=state, path=source)


def _read_architecture(folder: Path) -> Architecture:
    """The architecture in config.json; ModelError for another model, or another's tokenizer."""
    _refuse_adapters(folder)
    path = folder / CONFIG
    config = _read_config(path)
    if config.get("quantization_config") is not None:
        message = "has a quantization_config: the weights are quantised"
        raise ModelError(f"{path}: {message}; {UNQUANTISED}")
    for layout in LAYOUTS:
        if layout.model_type == config.get("model_type"):
            return layout.read_config(path, config)
    raise ModelError(f"{path}: model_type is {config.get('model_type')!r}; {SUPPORTED}")


def _find_weights(folder: Path) -> Path:
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
