"""The files of a model as its authors give it; no PyTorch is needed to name them."""

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
# Weights split over several files come with a list of them.
INDEX = ".index.json"
# Where a Hugging Face folder may keep its weights; the first that is there counts.
WEIGHTS = (SAFETENSORS, SAFETENSORS + INDEX, PICKLED, PICKLED + INDEX)
# Files that PEFT and the adapters library save beside a model, or in place of it. With them,
# transformers changes the model.
ADAPTERS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_adapter.bin",
)


def list_model_files(source: Path) -> list[Path]:
    """The files that decide what a model is: those of a Hugging Face folder, or a file itself.

    Files that are not there are left out; a damaged index is reported when the model is prepared.
    """
    if not source.is_dir():
        return [source]
    files = [source / name for name in (CONFIG, VOCABULARY, TOKENIZER, *ADAPTERS, *WEIGHTS)]
    for index in [path for path in files if path.name.endswith(INDEX) and path.exists()]:
        try:
            files += list_weight_files(index)
        except ModelError:
            continue
    return [path for path in dict.fromkeys(files) if path.exists()]


def list_weight_files(weights: Path) -> list[Path]:
    """The files that hold the weights: `weights`, and the parts in name order if it is an index.

    Raises ModelError for an index that cannot be read, or names a file outside its own folder.
    """
    if not weights.name.endswith(INDEX):
        return [weights]
    return [weights, *sorted(set(read_weight_map(weights).values()))]


def read_weight_map(index: Path) -> dict[str, Path]:
    """The file that holds each weight, from `*.index.json`; raises as list_weight_files does."""
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{index}: has no weight_map that names files")
    for part in places.values():
        # An index may come from a stranger: it must not lead out of its folder.
        if not isinstance(part, str) or part in ("", ".", "..") or any(c in part for c in "/\\\0"):
            raise ModelError(f"{index}: {part!r} is not the name of a file beside it")
    return {name: index.parent / part for name, part in places.items()}


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; ModelError where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: is not a JSON object")
    return content
