"""Read the tensors of a checkpoint as weights only: nothing that a file holds is ever executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from seqembed.errors import ModelError
from seqembed.models.source import INDEX, PICKLED, SAFETENSORS, read_weight_map
from seqembed.models.weights.file_forms import is_safetensors, is_zip, refuse_other_forms
from seqembed.models.weights.pickles import check_names, load_pickled

# What weights come in; whole numbers are quantised ones, which mean nothing without their scales.
FLOATS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True)
class Stored:
    """A tensor that is read when it is asked for; floating: it can be a weight as it is."""

    shape: tuple[int, ...]
    floating: bool
    read: Callable[[], Tensor]


State = Mapping[str, Stored]


def read_state(weights: Path) -> State:
    """The tensors of a safetensors or pickled file, or of those that an index names.

    Raises:
        ModelError: a file is damaged or missing, lacks what the index says, or would execute code.
    """
    read_file = read_safetensors if SAFETENSORS in weights.name else read_pickled
    if not weights.name.endswith(INDEX):
        return read_file(weights)
    places = read_weight_map(weights)
    parts = {path: read_file(path) for path in sorted(set(places.values()))}
    for name, path in places.items():
        if name not in parts[path]:
            raise ModelError(f"{path}: lacks {name!r}, which {weights.name} says it holds")
    # What the index does not name is there nevertheless, and must be accounted for.
    held = {name: stored for part in parts.values() for name, stored in part.items()}
    return held | {name: parts[path][name] for name, path in places.items()}


def read_safetensors(path: Path) -> State:
    """The tensors of one safetensors file."""
    if not is_safetensors(path):
        refuse_other_forms(path)
        if is_zip(path):
            raise ModelError(f"{path}: cannot be read: it is PyTorch's; name it {PICKLED}")
    try:
        file: Any = safe_open(path, framework="pt")
        return {name: _in_safetensors(file, name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; copy it again") from error


def read_pickled(path: Path) -> State:
    """The tensors of a state dict that torch.save wrote."""
    return check_state_dict(path, load_pickled(path))


def check_state_dict(path: Path, state: Any) -> State:
    """The tensors of what should be a state dict, or a ModelError that says what it is."""
    return {name: _in_memory(tensor) for name, tensor in check_names(path, state).items()}


def _in_memory(tensor: Tensor) -> Stored:
    return Stored(tuple(tensor.shape), tensor.dtype in FLOATS.values(), lambda: tensor)


def _in_safetensors(file: Any, name: str) -> Stored:
    header = file.get_slice(name)
    floating = header.get_dtype() in FLOATS
    return Stored(tuple(header.get_shape()), floating, partial(file.get_tensor, name))
