"""Find the files of a known model, or download them from the Hugging Face hub, and verify them."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from huggingface_hub import snapshot_download

from seqembed.errors import ModelError
from seqembed.models.known import KnownModel
from seqembed.models.prepared import sha256_of
from seqembed.models.source import INDEX, list_weight_files
from seqembed.versions import find_http_error


def fetch(model: KnownModel, by_hand: Path, logger: logging.Logger) -> Path:
    """Return the folder that holds the model's files, after verifying them.

    by_hand: the user's own folder, taken if all files are there. Otherwise the files are taken from
    huggingface_hub's cache, and those that are not there are downloaded.

    Raises ModelError if a file cannot be downloaded, or has another SHA-256 than `model` states.
    If `model` states none, a large file must have the SHA-256 that the hub states.
    """
    downloaded = not all(path.exists() for path in _list_files(by_hand, model))
    folder = _download(model, by_hand, logger) if downloaded else by_hand
    for path in _list_files(folder, model):
        # A large file in the cache is a link, to a file named by the SHA-256 that the hub states.
        expected = model.files.get(path.name) or (path.readlink().name if path.is_symlink() else "")
        if not re.fullmatch("[0-9a-f]{64}", expected) or (found := sha256_of(path)) == expected:
            continue
        advice = "put the right one there, or remove this file to have it downloaded"
        if downloaded:
            # The file behind the link goes too: the next download would link to it again.
            for file in (path.resolve(), path):
                file.unlink(missing_ok=True)
            advice = "the file was removed, so run again to download it anew"
        raise ModelError(f"{path}: its SHA-256 is {found}, but should be {expected}; {advice}")
    return folder


def _list_files(folder: Path, model: KnownModel) -> list[Path]:
    files = [folder / name for name in model.files]
    for index in [path for path in files if path.name.endswith(INDEX) and path.exists()]:
        files += [path for path in list_weight_files(index) if path not in files]
    return files


def _download(model: KnownModel, by_hand: Path, logger: logging.Logger) -> Path:
    names = list(model.files)
    # The index model.safetensors.index.json names files like model-00001-of-00002.safetensors.
    parts = [n.removesuffix(INDEX).replace(".", "-*.", 1) for n in names if n.endswith(INDEX)]
    logger.info("%s: taking files from huggingface_hub's cache, or from the hub", model.repository)
    try:
        folder = snapshot_download(
            model.repository, revision=model.revision, allow_patterns=names + parts
        )
        files = _list_files(Path(folder), model)
        if missing := [path.name for path in files if not path.exists()]:
            raise FileNotFoundError(f"there is no {', '.join(missing)}")
    # A failed transfer over Xet raises a bare RuntimeError.
    except (find_http_error(), OSError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        needed = ", ".join(names) + (" and the files that the index names" if parts else "")
        page = f"https://huggingface.co/{model.repository}/tree/{model.revision}"
        raise ModelError(
            f"{model.repository}: cannot be downloaded ({reason}). Run again, or put {needed} of "
            f"{page} into {by_hand}. Out of reach: set HF_ENDPOINT to a mirror of the hub. Disk "
            "full: set HF_HOME to a folder with more room. Access denied: accept the model's terms "
            "on the hub and run `hf auth login`. A fault of Xet: set HF_HUB_DISABLE_XET=1."
        ) from error
    return Path(folder)
