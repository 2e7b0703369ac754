"""The files of a model as its authors publish it. Needs no PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError

CONFIG = "config.json"
VOCABULARY = "vocab.txt"
TOKENIZER = "tokenizer.json"
SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
# The end of the name of a list of the files over which weights are split.
INDEX = ".index.json"
# Where a Hugging Face folder may keep its weights; the first file that is there is read.
WEIGHTS = (SAFETENSORS, SAFETENSORS + INDEX, PICKLED, PICKLED + INDEX)
# Files of PEFT and the adapters library, with which transformers changes the model beside them.
ADAPTERS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_adapter.bin",
)


def list_model_files(source: Path) -> list[Path]:
    """Return the files that are there and decide what a model is; `source`: a folder or a file."""
    if not source.is_dir():
        return [source]
    files = [source / name for name in (CONFIG, VOCABULARY, TOKENIZER, *ADAPTERS, *WEIGHTS)]
    for index in [path for path in files if path.name.endswith(INDEX) and path.exists()]:
        try:
            files += list_weight_files(index)
        except ModelError:
            continue  # A damaged index is reported when the model is prepared.
    return [path for path in dict.fromkeys(files) if path.exists()]


def list_weight_files(weights: Path) -> list[Path]:
    """Return the files that hold the weights: `weights` and, if it is an index, its sorted parts.

    Raises ModelError if an index cannot be read, or names a file outside its own folder.
    """
    if not weights.name.endswith(INDEX):
        return [weights]
    return [weights, *sorted(set(read_weight_map(weights).values()))]


def read_weight_map(index: Path) -> dict[str, Path]:
    """Return the file of each weight, from `*.index.json`; raises as list_weight_files does."""
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{index}: has no weight_map that names files")
    for part in places.values():
        # An index may come from a stranger, so it must not name files outside its folder.
        if not isinstance(part, str) or part in ("", ".", "..") or any(c in part for c in "/\\\0"):
            raise ModelError(f"{index}: {part!r} is not the name of a file beside it")
    return {name: index.parent / part for name, part in places.items()}


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; ModelError if it does not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: is not a JSON object")
    return content
