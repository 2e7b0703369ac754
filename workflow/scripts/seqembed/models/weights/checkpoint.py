"""Read checkpoints of models: Hugging Face folders, and fair-esm files (.pt) of ESM-2."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError, count_of, named
from seqembed.models.families import Architecture, Esm2Architecture
from seqembed.models.source import ADAPTERS, CONFIG, WEIGHTS, read_json_object
from seqembed.models.weights import dnabert_s, esm2
from seqembed.models.weights.esm2 import HUGGING_FACE, find_naming, find_rotary
from seqembed.models.weights.formats import State, check_state, load_pickled, read_state
from seqembed.models.weights.layout import MERGE, SUPPORTED, UNQUANTISED, Layout, find_encoder

# The layouts of all families.
LAYOUTS = (esm2.LAYOUT, dnabert_s.LAYOUT)
EXPECTED = (
    "a model is a Hugging Face folder (config.json with model.safetensors or pytorch_model.bin) "
    "or a fair-esm file (.pt)"
)
# Files that a folder may hold in place of readable weights, what they are, and what to do.
OTHER_WEIGHTS = {
    "tf_model.h5": ("TensorFlow's weights", "convert them with from_pretrained(from_tf=True)"),
    "flax_model.msgpack": ("Flax's weights", "convert them with from_pretrained(from_flax=True)"),
    "*.distcp": ("a sharded checkpoint of FSDP", "gather it with `accelerate merge-weights`"),
    "zero_to_fp32.py": ("a checkpoint of DeepSpeed", "gather it with zero_to_fp32.py"),
    "*.gguf": ("quantised weights (GGUF)", "take the model's weights as safetensors"),
    "*.onnx": ("a program of ONNX", "take the model's weights as safetensors"),
}
OTHER_SUFFIXES = {
    ".ckpt": ", but a checkpoint of training (Lightning's): save the weights alone",
    ".safetensors": ": give the folder that holds the file",
    ".bin": ": give the folder that holds the file",
}
# The number of attention heads of each official ESM-2, by layers and width, after its config.json:
# the shapes of weights do not show the number. All have token dropout, and ffn_width is 4 * width.
KNOWN_HEADS = {
    (6, 320): 20,
    (12, 480): 20,
    (30, 640): 20,
    (33, 1280): 20,
    (36, 2560): 40,
    (48, 5120): 40,
}
FOLDER = (
    "give the model as a Hugging Face folder with its config.json, as save_pretrained() writes it"
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint; state: its tensors by name; path: the file that holds them, or their index."""

    architecture: Architecture
    state: State
    path: Path

    @property
    def layout(self) -> Layout:
        """The layout of the checkpoint's family."""
        kind = type(self.architecture)
        return next(layout for layout in LAYOUTS if layout.family.architecture is kind)


def read_checkpoint(source: Path) -> Checkpoint:
    """Return the checkpoint of a Hugging Face folder or a fair-esm file (.pt).

    The tensors are not loaded yet. Raises ModelError if `source` is neither, is damaged, or is not
    of a known family.
    """
    if source.is_dir():
        architecture, path = _read_architecture(source), _find_weights(source)
        return Checkpoint(architecture=architecture, state=read_state(path), path=path)
    if not source.exists():
        raise ModelError(f"{source}: does not exist; {EXPECTED}")
    if source.suffix != ".pt":
        advice = OTHER_SUFFIXES.get(source.suffix, "")
        raise ModelError(f"{source}: is not a model that can be read{advice}; {EXPECTED}")
    architecture, state = _read_fair_esm(source)
    return Checkpoint(architecture=architecture, state=state, path=source)


def _read_architecture(folder: Path) -> Architecture:
    for adapter in (folder / name for name in ADAPTERS):
        # Without the adapter, the rows would be the base model's.
        if adapter.exists():
            raise ModelError(f"{adapter}: belongs to an adapter (LoRA or the like); {MERGE}")
    path = folder / CONFIG
    if not path.exists():
        raise ModelError(f"{path}: does not exist; {EXPECTED}")
    config = read_json_object(path)
    if config.get("quantization_config") is not None:
        message = "has a quantization_config: the weights are quantised"
        raise ModelError(f"{path}: {message}; {UNQUANTISED}")
    for layout in LAYOUTS:
        if layout.model_type == config.get("model_type"):
            return layout.read_config(path, config)
    raise ModelError(f"{path}: model_type is {config.get('model_type')!r}; {SUPPORTED}")


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


def _read_fair_esm(path: Path) -> tuple[Esm2Architecture, State]:
    loaded = load_pickled(path)
    settings = None
    with named(path):
        if isinstance(loaded, Mapping) and ("cfg" in loaded or "args" in loaded):
            # An ESM-2 has its settings in cfg["model"], an older model in args.
            cfg = loaded.get("cfg")
            found = cfg.get("model") if isinstance(cfg, Mapping) else loaded.get("args")
            settings = vars(found) if isinstance(found, argparse.Namespace) else found
            if not isinstance(settings, Mapping):
                message = "has no settings (cfg or args) that state its architecture"
                raise ModelError(f"{message}; {FOLDER}")
            loaded = loaded.get("model")
        state = check_state(loaded)
        encoder = find_encoder(state, esm2.LAYOUT)
        # With Hugging Face's names, ESM-1v has all names of an ESM-2, and position embeddings.
        learned = "embeddings.position_embeddings.weight" in encoder
        if not find_rotary(encoder) and (find_naming(encoder) is not HUGGING_FACE or learned):
            message = "has no rotary frequencies (inv_freq), which an ESM-2 stores with its weights"
            raise ModelError(f"{message}; if it is an ESM-2, {FOLDER}")
        if settings is None:
            return _measured(encoder), state
        # fair-esm's ESM2 has no setting for ffn_width (esm/model/esm2.py).
        width: Any = settings.get("encoder_embed_dim")
        ffn_width = 4 * width if isinstance(width, int) else None
        layers, heads = settings.get("encoder_layers"), settings.get("encoder_attention_heads")
        sizes: Any = (layers, width, heads, ffn_width, settings.get("token_dropout", False))
        return Esm2Architecture(*sizes), state


def _measured(encoder: State) -> Esm2Architecture:
    """Return the official ESM-2 architecture that the weights' shapes fit; ModelError if none."""
    naming = find_naming(encoder)
    layers = 0
    while f"{naming.part(layers, 'fc1')}.weight" in encoder:
        layers += 1
    width = encoder[f"{naming.embedding}.weight"].shape[-1]
    if (layers, width) not in KNOWN_HEADS:
        size = f"{count_of(layers, 'layer')} of width {width}"
        raise ModelError(
            f"has weights without settings, and no official ESM-2 has {size}; {FOLDER}"
        )
    return Esm2Architecture(layers, width, KNOWN_HEADS[layers, width], 4 * width)
