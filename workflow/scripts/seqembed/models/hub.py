"""Find or download the files of a known model, and verify them."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import snapshot_download

from seqembed.errors import ModelError
from seqembed.models.known import KnownModel
from seqembed.models.prepared import sha256_of
from seqembed.models.source import INDEX, list_weight_files


def fetch(model: KnownModel, by_hand: Path, logger: logging.Logger) -> Path:
    """Return the folder with the model's files: `by_hand` if all are there, else a snapshot.

    A snapshot lies in huggingface_hub's own cache; files in the cache are not downloaded again.
    Raises ModelError if a file cannot be downloaded or has other bytes than the known SHA-256, or
    the one that the hub states.
    """
    downloaded = bool(_list_missing(by_hand, model))
    folder = _download(model, by_hand, logger) if downloaded else by_hand
    for path in _list_files(folder, model):
        # The cache names a large file by the SHA-256 that the hub states, and links to it.
        expected = model.files.get(path.name) or (path.readlink().name if path.is_symlink() else "")
        if not re.fullmatch("[0-9a-f]{64}", expected) or (found := sha256_of(path)) == expected:
            continue
        advice = "put the right one there, or remove it"
        if downloaded:
            # The linked bytes go too: the next download would only link to them again.
            for file in (path.resolve(), path):
                file.unlink(missing_ok=True)
            advice = "it was removed, run again"
        raise ModelError(f"{path}: its SHA-256 is {found}, but should be {expected}; {advice}")
    return folder


def _list_files(folder: Path, model: KnownModel) -> list[Path]:
    """Return the paths of the model's files, there or not, and of the parts that an index names."""
    files = [folder / name for name in model.files]
    for index in [path for path in files if path.name.endswith(INDEX) and path.exists()]:
        files += [path for path in list_weight_files(index) if path not in files]
    return files


def _list_missing(folder: Path, model: KnownModel) -> list[str]:
    return [path.name for path in _list_files(folder, model) if not path.exists()]


def _download(model: KnownModel, by_hand: Path, logger: logging.Logger) -> Path:
    names = list(model.files)
    # The index model.safetensors.index.json has parts such as model-00001-of-00002.safetensors.
    parts = [n.removesuffix(INDEX).replace(".", "-*.", 1) for n in names if n.endswith(INDEX)]
    logger.info("the files of %s are taken from the hub or its cache", model.repository)
    try:
        folder = snapshot_download(
            model.repository, revision=model.revision, allow_patterns=names + parts
        )
        if missing := _list_missing(Path(folder), model):
            raise FileNotFoundError(f"there is no {', '.join(missing)}")
    # A failed transfer over Xet raises a bare RuntimeError.
    except (HTTPError, OSError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        files = ", ".join(names) + (" with the files that it names" if parts else "")
        page = f"https://huggingface.co/{model.repository}/tree/{model.revision}"
        raise ModelError(
            f"{model.repository}: cannot be downloaded ({reason}). Run again, or put {files} of "
            f"{page} into {by_hand}. HF_ENDPOINT names a mirror of the hub, HF_HOME a folder with "
            "more room, `hf auth login` opens a model whose terms you accepted, "
            "HF_HUB_DISABLE_XET=1 downloads without Xet."
        ) from error
    return Path(folder)
