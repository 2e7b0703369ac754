"""The files in which authors publish a model. Needs no PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError

CONFIG = "config.json"
VOCABULARY = "vocab.txt"
TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "spiece.model"
ADDED_TOKENS = "added_tokens.json"
# The files that may say which tokens a model has.
TOKEN_FILES = (VOCABULARY, TOKENIZER, SENTENCEPIECE, ADDED_TOKENS)
SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
# How the name of an index ends: a file that names, for each weight, the file that holds the weight.
INDEX = ".index.json"
# The files in which a Hugging Face folder may keep its weights. The first one that exists is read.
WEIGHTS = (SAFETENSORS, SAFETENSORS + INDEX, PICKLED, PICKLED + INDEX)
# Files that PEFT and the adapters library write. transformers changes the model beside them.
ADAPTERS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_adapter.bin",
)


# How a file begins that git-lfs has not fetched yet.
LFS_POINTER = b"version https://git-lfs"


def list_model_files(source: Path) -> list[Path]:
    """Return the existing files of a model; source: a Hugging Face folder or a fair-esm file."""
    if not source.is_dir():
        return [source]
    files = [source / name for name in (CONFIG, *TOKEN_FILES, *ADAPTERS, *WEIGHTS)]
    for index in [path for path in files if path.name.endswith(INDEX) and path.exists()]:
        try:
            files += list_weight_files(index)
        except ModelError:
            continue  # The rule that prepares the model reports the damage.
    return [path for path in dict.fromkeys(files) if path.exists()]


def list_weight_files(weights: Path) -> list[Path]:
    """Return `weights` and, if it is an index (*.index.json), the files that it names, sorted.

    Raises ModelError if an index cannot be read, or names a file outside its own folder.
    """
    if not weights.name.endswith(INDEX):
        return [weights]
    return [weights, *sorted(set(read_weight_map(weights).values()))]


def read_weight_map(index: Path) -> dict[str, Path]:
    """Return, by the name of each weight in an index, the path of the file with the weight.

    Raises ModelError if the index cannot be read, or names a file outside its own folder.
    """
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{index}: has no weight_map that names files; copy it again")
    for part in places.values():
        # An index may come from a stranger, so it must not name files outside its folder.
        if not isinstance(part, str) or part in ("", ".", "..") or any(c in part for c in "/\\\0"):
            message = f"{part!r} is not the name of a file beside it; take the authors' index"
            raise ModelError(f"{index}: {message}")
    return {name: index.parent / part for name, part in places.items()}


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; raise ModelError if it is unreadable or not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        advice = advise(path, "copy it again")
        raise ModelError(f"{path}: cannot be read as JSON ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: is not a JSON object; copy it again")
    return content


def advise(path: Path, otherwise: str) -> str:
    """Return what to do about an unreadable file: fetch it if git-lfs has not, or `otherwise`."""
    try:
        pointer = path.read_bytes().startswith(LFS_POINTER)
    except OSError:
        pointer = False
    return "it is a git-lfs pointer; fetch the file: `git lfs pull`" if pointer else otherwise
