"""The files of a known model, each verified: put there by hand, or downloaded from the hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import snapshot_download

from seqembed.errors import ModelError
from seqembed.models.known import KnownModel
from seqembed.models.prepared import sha256_of
from seqembed.models.source import INDEX, list_weight_files


def fetch(model: KnownModel, by_hand: Path, logger: logging.Logger) -> Path:
    """The folder with the model's files: `by_hand` if it holds all of them, else a snapshot.

    A snapshot is in huggingface_hub's own cache, and what is there is not downloaded again. Raises
    ModelError, which says what to do, where a file cannot be had or has the wrong bytes.
    """
    downloaded = bool(_list_missing(by_hand, model))
    folder = _download(model, by_hand, logger) if downloaded else by_hand
    for path, expected in _list_hashes(folder, model):
        if (found := sha256_of(path)) != expected:
            advice = "put the right one there, or remove it"
            if downloaded:
                # With the bytes that it links to: the next download would only link to them again.
                for file in (path.resolve(), path):
                    file.unlink(missing_ok=True)
                advice = "it was removed, run again"
            message = f"its SHA-256 is {found}, but should be {expected}"
            raise ModelError(f"{path}: {message}; {advice}")
    return folder


def _list_files(folder: Path, model: KnownModel) -> list[Path]:
    """The paths of the model's files in a folder, there or not, and of those an index names."""
    files = [folder / name for name in model.files]
    for index in [path for path in files if path.name.endswith(INDEX) and path.exists()]:
        files += [path for path in list_weight_files(index) if path not in files]
    return files


def _list_missing(folder: Path, model: KnownModel) -> list[str]:
    return [path.name for path in _list_files(folder, model) if not path.exists()]


def _download(model: KnownModel, by_hand: Path, logger: logging.Logger) -> Path:
    """The snapshot with the model's files; ModelError where it cannot be had."""
    names = list(model.files)
    # An index's parts: model-00001-of-00002.safetensors of model.safetensors.index.json.
    parts = [n.removesuffix(INDEX).replace(".", "-*.", 1) for n in names if n.endswith(INDEX)]
    logger.info("the files of %s are taken from the hub or its cache", model.repository)
    try:
        folder = snapshot_download(
            model.repository, revision=model.revision, allow_patterns=names + parts
        )
        if missing := _list_missing(Path(folder), model):
            raise FileNotFoundError(f"there is no {', '.join(missing)}")
    # A bare RuntimeError is what a failed transfer over Xet raises.
    except (HTTPError, OSError, RuntimeError) as error:
        raise ModelError(_explain(model, by_hand, error)) from error
    return Path(folder)


def _explain(model: KnownModel, by_hand: Path, error: Exception) -> str:
    files = ", ".join(model.files)
    if INDEX in files:
        files += " with the files that it names"
    page = f"https://huggingface.co/{model.repository}/tree/{model.revision}"
    return (
        f"{model.repository}: cannot be downloaded ({type(error).__name__}: "
        f"{' '.join(str(error).split())}). Run again, or put {files} of {page} into {by_hand}. "
        "HF_ENDPOINT names a mirror of the hub, HF_HOME a folder with more room, `hf auth login` "
        "opens a model whose terms you accepted, HF_HUB_DISABLE_XET=1 takes another way."
    )


def _list_hashes(folder: Path, model: KnownModel) -> Iterator[tuple[Path, str]]:
    """Yield each file with the SHA-256 that is known, or that the hub states."""
    for path in _list_files(folder, model):
        # The cache names a large file by what the hub states of it, and links to that.
        stated = path.readlink().name if path.is_symlink() else ""
        expected = model.files.get(path.name) or stated
        if re.fullmatch("[0-9a-f]{64}", expected):
            yield path, expected
