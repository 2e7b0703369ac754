"""Weights in one file or in several, as safetensors or pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from seqembed.models.source import INDEX, SAFETENSORS


def save_in_parts(tensors: Mapping[str, Tensor], folder: Path, name: str, parts: int) -> Path:
    """Save tensors as a file `name`, or spread over several with an index; return what to read."""
    save = save_file if name == SAFETENSORS else torch.save
    if parts == 1:
        save(dict(tensors), folder / name)
        return folder / name
    places = {}
    for number in range(parts):
        part = name.replace(".", f"-{parts - number:05}-of-{parts:05}.")
        mine = {own: tensors[own] for own in sorted(tensors)[number::parts]}
        places |= dict.fromkeys(mine, part)
        save(mine, folder / part)
    (folder / (name + INDEX)).write_text(json.dumps({"weight_map": places}))
    return folder / (name + INDEX)
