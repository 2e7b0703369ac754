"""Read checkpoints of models: Hugging Face folders, and the authors' own files (.pt, .pth)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError, named
from seqembed.models.architectures import Architecture
from seqembed.models.source import ADAPTERS, CONFIG, WEIGHTS, read_json_object
from seqembed.models.weights import dnabert_s, esm1b, esm2, esmc, t5
from seqembed.models.weights.formats import State, check_state, load_pickled, read_state
from seqembed.models.weights.layout import (
    FOLDER,
    MERGE,
    SUPPORTED,
    UNQUANTISED,
    Layout,
    find_encoder,
)

# The layouts of all families.
LAYOUTS = (esmc.LAYOUT, esm1b.LAYOUT, esm2.LAYOUT, *t5.LAYOUTS, dnabert_s.LAYOUT)
EXPECTED = (
    "a model is a Hugging Face folder (config.json with model.safetensors or pytorch_model.bin) "
    "or a file of its authors (fair-esm's .pt, ESM C's .pth)"
)
# Later versions read no weights of TensorFlow or Flax.
TRANSFORMERS_4 = "convert them with transformers 4, from_pretrained"
# Files that a folder may hold in place of readable weights, what they are, and what to do.
OTHER_WEIGHTS = {
    "tf_model.h5": ("TensorFlow's weights", f"{TRANSFORMERS_4}(from_tf=True)"),
    "flax_model.msgpack": ("Flax's weights", f"{TRANSFORMERS_4}(from_flax=True)"),
    "*.distcp": ("a sharded checkpoint of FSDP", "gather it with `accelerate merge-weights`"),
    "zero_to_fp32.py": ("a checkpoint of DeepSpeed", "gather it with zero_to_fp32.py"),
    "*.gguf": ("quantised weights (GGUF)", "take the model's weights as safetensors"),
    "*.onnx": ("a program of ONNX", "take the model's weights as safetensors"),
}
FILES = (".pt", ".pth")
# Where the repositories of ESM C of December 2024 have their file.
ESMC_2024 = "data/weights/*.pth"
NO_FAMILY = (
    "has no weights that show its family: rotary frequencies (inv_freq) in ESM-2's files, a table "
    "of positions (embed_positions) in those of ESM-1b and ESM-1v, layernorm_qkv in ESM C's"
)
OTHER_SUFFIXES = {
    ".ckpt": ", but a checkpoint of training (Lightning's): save the weights alone",
    ".safetensors": ": give the folder that holds the file",
    ".bin": ": give the folder that holds the file",
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint; state: its tensors by name; path: the file that holds them, or their index."""

    architecture: Architecture
    state: State
    path: Path

    @property
    def layout(self) -> Layout:
        """The layout of the checkpoint's family."""
        return layout_of(self.architecture)


def layout_of(architecture: Architecture) -> Layout:
    """Return the layout of an architecture's family."""
    kind = type(architecture)
    return next(layout for layout in LAYOUTS if layout.family.architecture is kind)


def read_checkpoint(source: Path) -> Checkpoint:
    """Return the checkpoint of a Hugging Face folder or of a file of a model's authors.

    The tensors are not loaded yet. Raises ModelError if `source` is neither, is damaged, or is not
    of a known family.
    """
    if source.is_dir():
        architecture, path = read_architecture(source), _find_weights(source)
        return Checkpoint(architecture=architecture, state=read_state(path), path=path)
    if not source.exists():
        raise ModelError(f"{source}: does not exist; {EXPECTED}")
    if source.suffix not in FILES:
        advice = OTHER_SUFFIXES.get(source.suffix, "")
        raise ModelError(f"{source}: is not a model that can be read{advice}; {EXPECTED}")
    architecture, state = _read_file(source)
    return Checkpoint(architecture=architecture, state=state, path=source)


def read_architecture(folder: Path) -> Architecture:
    """Return the sizes that a Hugging Face folder's config.json states; its weights need not exist.

    Raises ModelError if the folder is of no known family, or is an adapter or quantised.
    """
    for adapter in (folder / name for name in ADAPTERS):
        # Without the adapter, the rows would be the base model's.
        if adapter.exists():
            raise ModelError(f"{adapter}: belongs to an adapter (LoRA or the like); {MERGE}")
    for weights in folder.glob(ESMC_2024):
        raise ModelError(f"{folder}: give the file that it holds, {weights}")
    path = folder / CONFIG
    if not path.exists():
        raise ModelError(f"{path}: does not exist; {EXPECTED}")
    config = read_json_object(path)
    if config.get("quantization_config") is not None:
        message = "has a quantization_config: the weights are quantised"
        raise ModelError(f"{path}: {message}; {UNQUANTISED}")
    for layout in LAYOUTS:
        if layout.config.items() <= config.items():
            return layout.read_config(path, config)
    raise ModelError(f"{path}: {_describe_other(config)}; {SUPPORTED}")


def _describe_other(config: Mapping[str, Any]) -> str:
    """Return which settings of config.json belong to no layout, and what layouts have instead."""
    kind = config.get("model_type")
    similar = [layout for layout in LAYOUTS if layout.config["model_type"] == kind]
    if not similar:
        return f"model_type is {kind!r}"
    # What tells families of this model_type apart.
    (name,) = similar[0].config.keys() - {"model_type"}
    values = ", ".join(
        f"{layout.config[name]!r} in {' and '.join(layout.family.models)}" for layout in similar
    )
    found = f"model_type is {kind!r} and {name} is {config.get(name)!r}"
    return f"{found}, which is {values}"


def _find_weights(folder: Path) -> Path:
    """Return the path of the first of WEIGHTS that is in the folder; ModelError if none is."""
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    for pattern, (what, advice) in OTHER_WEIGHTS.items():
        if any(folder.glob(pattern)):
            raise ModelError(f"{folder}: holds {what}; {advice}, and save with save_pretrained()")
    message = "has neither model.safetensors nor pytorch_model.bin"
    raise ModelError(f"{folder}: {message}; {EXPECTED}")


def _read_file(path: Path) -> tuple[Architecture, State]:
    loaded = load_pickled(path)
    settings = None
    with named(path):
        if isinstance(loaded, Mapping) and ("cfg" in loaded or "args" in loaded):
            # An ESM-2 of fair-esm has its settings in cfg["model"], an older model in args.
            cfg = loaded.get("cfg")
            found = cfg.get("model") if isinstance(cfg, Mapping) else loaded.get("args")
            settings = vars(found) if isinstance(found, argparse.Namespace) else found
            if not isinstance(settings, Mapping):
                message = "has no settings (cfg or args) that state its architecture"
                raise ModelError(f"{message}; {FOLDER}")
            loaded = loaded.get("model")
        state = check_state(loaded)
        own = (layout for layout in LAYOUTS if layout.own_files and layout.own_files.shows(state))
        layout = next(own, None)
        # Raises ModelError for other families, too.
        encoder = find_encoder(state, layout or esm2.LAYOUT)
        if layout is None or layout.own_files is None:
            raise ModelError(f"{NO_FAMILY}; {FOLDER}")
        return layout.own_files.read_settings(settings, encoder), state
