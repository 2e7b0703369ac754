"""Read the tensors of a checkpoint as weights only: nothing that a file holds is ever executed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from seqembed.errors import ModelError, show
from seqembed.models.source import INDEX, PICKLED, SAFETENSORS, read_weight_map
from seqembed.models.weights.file_forms import find_form

# The dtypes of weights; whole numbers are quantised weights, useless without their scales.
FLOATS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
SAVE = (
    "save the weights alone, with the model's own save_pretrained or as "
    "torch.save(model.state_dict(), 'model.pt')"
)
# Keys that training programs save with a model's weights, or in place of them.
OPTIMIZER = {"state", "param_groups"}
TRAINING = {
    "state_dict", "model_state_dict", "optimizer_states", "optimizer_state_dict", "optimizer",
    "pytorch-lightning_version", "epoch", "global_step", "ds_version", "net", "model", "module",
}  # fmt: skip
CONTACTS = "contact_head."


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, read when it is asked for; floating: its dtype is one of FLOATS."""

    shape: tuple[int, ...]
    floating: bool
    read: Callable[[], Tensor]


# A checkpoint's tensors by name.
State = Mapping[str, Stored]


def read_state(weights: Path) -> State:
    """The tensors of a safetensors or pickled file, or of those that an index names.

    Raises ModelError where a file is damaged or missing, or lacks a tensor that the index names.
    """
    read_file = _read_safetensors if SAFETENSORS in weights.name else _read_pickled
    if not weights.name.endswith(INDEX):
        return read_file(weights)
    places = read_weight_map(weights)
    parts = {path: read_file(path) for path in sorted(set(places.values()))}
    for name, path in places.items():
        if name not in parts[path]:
            raise ModelError(f"{path}: lacks {name!r}, which {weights.name} says it holds")
    # Tensors that the index does not name may be an adapter's: they are looked at, too.
    held = {name: stored for part in parts.values() for name, stored in part.items()}
    return held | {name: parts[path][name] for name, path in places.items()}


def load_pickled(path: Path) -> Any:
    """torch.load restricted to tensors, plain containers and argparse.Namespace.

    Raises ModelError where the file is not of torch.save, is damaged, or holds other objects.
    """
    archive = (form := find_form(path)) == "zip"
    refusal = f"{path}: cannot be loaded as weights only"
    if form == "safetensors":
        message = "it is a safetensors file; name it model.safetensors, in a folder with"
        raise ModelError(f"{refusal}: {message} config.json")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Files of old versions are no archives, and cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # damaged bytes make torch's reader fail in any of many types
        kind = type(error).__name__
        reason = (
            f"it is damaged, or a pickle of more than weights ({kind}); copy it again, or {SAVE}"
        )
        if archive:
            reason = f"it is damaged or incomplete ({kind}); copy or download it again"
        if objects := _list_objects(path):
            reason = f"it holds Python objects ({show(objects)}), which are never built; {SAVE}"
        raise ModelError(f"{refusal}: {reason}") from error


def check_state(path: Path, content: Any) -> State:
    """The tensors of what `path` holds; ModelError, which says what it is, if no state dict."""
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise ModelError(f"{path}: holds a {kind} in place of named weights; {SAVE}")
    if not content:
        raise ModelError(f"{path}: holds no weights; {SAVE}")
    others = [k for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others:
        _refuse_training(path, content, sorted(TRAINING.intersection(others)))
        message = f"holds something other than named tensors ({show([*map(str, others)])})"
        raise ModelError(f"{path}: {message}; {SAVE}")
    return {name: _hold(tensor) for name, tensor in content.items()}


def _list_objects(path: Path) -> list[str]:
    """The classes and functions that an archive of torch.save names; empty if it is damaged."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 (as above: any of many types, for bytes that are damaged)
        return []


def _refuse_training(path: Path, content: Mapping[Any, Any], found: list[str]) -> None:
    """Raise ModelError for what training leaves; found: the keys of it that are not tensors."""
    if content.keys() >= OPTIMIZER:
        message = "is the state of an optimizer, not a model"
        raise ModelError(f"{path}: {message}; give the model's folder or file")
    model = content.get("model")
    if isinstance(model, Mapping) and model and all(str(n).startswith(CONTACTS) for n in model):
        raise ModelError(
            f"{path}: holds the contact regression of an ESM-2, not the model; give the file "
            "without `-contact-regression` in its name"
        )
    if found:
        raise ModelError(f"{path}: is a checkpoint of training ({show(found)}); {SAVE}")


def _read_pickled(path: Path) -> State:
    return check_state(path, load_pickled(path))


def _read_safetensors(path: Path) -> State:
    if find_form(path) == "zip":
        raise ModelError(f"{path}: cannot be read: it is PyTorch's; name it {PICKLED}")
    try:
        file: Any = safe_open(path, framework="pt")
        return {name: _stored(file, name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; copy it again") from error


def _hold(tensor: Tensor) -> Stored:
    return Stored(tuple(tensor.shape), tensor.dtype in FLOATS.values(), lambda: tensor)


def _stored(file: Any, name: str) -> Stored:
    header = file.get_slice(name)
    floating = header.get_dtype() in FLOATS
    return Stored(tuple(header.get_shape()), floating, partial(file.get_tensor, name))
