"""The files of a model as its authors give it; no PyTorch is needed to name them."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.json"
VOCABULARY = "vocab.txt"
SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"


def list_model_files(source: Path) -> list[Path]:
    """The files that decide what a model is: of a Hugging Face folder, or a file itself."""
    if not source.is_dir():
        return [source]
    names = CONFIG, VOCABULARY, SAFETENSORS, PICKLED
    return [source / name for name in names if (source / name).exists()]
