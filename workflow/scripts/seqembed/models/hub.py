"""A known model's files, each verified: as somebody put them there by hand, or from the hub."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

from seqembed.errors import ModelError
from seqembed.models.known import KnownFile, KnownModel
from seqembed.models.prepared import sha256_of
from seqembed.models.source import INDEX

# A bare RuntimeError is what a failed transfer over Xet raises; the first that fits explains.
_REASONS: dict[type[Exception], str] = {
    errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE forbids to download",
    errors.RepositoryNotFoundError: "the hub hides it: accept its terms there, `hf auth login`",
    errors.RevisionNotFoundError: "the hub does not have this revision",
    errors.RemoteEntryNotFoundError: "the hub does not have this file",
    errors.LocalEntryNotFoundError: "the hub cannot be reached",
    HTTPError: "the hub broke off",
    RuntimeError: "its transfer failed; HF_HUB_DISABLE_XET=1 takes another way",
    OSError: "it cannot be kept",
}
# A part of the weights lies beside its index.
_PLAIN_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


def fetch(model: KnownModel, by_hand: Path, logger: logging.Logger) -> Path:
    """The folder with the model's files: `by_hand` if it holds all of them, else a snapshot.

    A snapshot is in huggingface_hub's own cache, and what is there is not asked for again. A broken
    connection goes on where it was, but a file whose download was killed begins anew.

    Raises:
        ModelError: a file cannot be had, or has the wrong bytes; the message says what to do.
    """

    def take(name: str) -> Path:
        (by_hand / name).stat()
        return by_hand / name

    def download(name: str) -> Path:
        if not try_to_load_from_cache(model.repository, name, revision=model.revision):
            logger.info("downloading %s of %s", name, model.repository)
        return Path(hf_hub_download(model.repository, name, revision=model.revision))

    try:
        return _gather(model, take)
    except FileNotFoundError:
        pass
    except _WrongFileError as error:
        raise ModelError(f"{error}; put the right one there, or remove it") from error
    try:
        return _gather(model, download)
    except _WrongFileError as error:
        _remove(error.path)
        raise ModelError(f"{error}; it was removed, run again") from error
    except tuple(_REASONS) as error:
        raise ModelError(_explain(model, by_hand, error)) from error


class _WrongFileError(Exception):
    """The file at `path` is not what it should be."""

    def __init__(self, path: Path, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


def _gather(model: KnownModel, get: Callable[[str], Path]) -> Path:
    """Get every file of the model, and verify each; the folder that they are in."""
    files = [*model.files, *_choose(model.weights, get)]
    paths = {file.name: _verified(get(file.name), file.sha256) for file in files}
    for index in [path for name, path in paths.items() if name.endswith(INDEX)]:
        for name in _read_parts(index):
            if name not in paths:
                _verified(get(name), None)
    return paths[files[0].name].parent


def _choose(weights: tuple[KnownFile, ...], get: Callable[[str], Path]) -> tuple[KnownFile, ...]:
    """The first of the files that is to be had, if there are any."""
    for file in weights[:-1]:
        try:
            get(file.name)
            return (file,)
        except (FileNotFoundError, errors.EntryNotFoundError):
            continue
    return weights[-1:]


def _verified(path: Path, sha256: str | None) -> Path:
    """The path, if its bytes have this SHA-256, or else the one that the hub states."""
    # The cache names a large file by what the hub says of it, and links to that.
    stated = path.readlink().name if path.is_symlink() else ""
    expected = sha256 or (stated if re.fullmatch("[0-9a-f]{64}", stated) else None)
    if expected and (found := sha256_of(path)) != expected:
        raise _WrongFileError(path, f"its SHA-256 is {found}, but should be {expected}")
    return path


def _read_parts(index: Path) -> list[str]:
    """The names of the files that weights are split over."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        strange = [name for name in names if not _PLAIN_NAME.fullmatch(name)]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _WrongFileError(index, "is no index of weights") from error
    if strange:
        raise _WrongFileError(index, f"names {strange[0]!r}, which is no file beside it")
    return names


def _remove(path: Path) -> None:
    # With all that links to its bytes: the next download would only link to them again.
    while path.is_symlink():
        link, path = path, path.parent / path.readlink()
        link.unlink()
    path.unlink(missing_ok=True)


def _explain(model: KnownModel, by_hand: Path, error: Exception) -> str:
    if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
        error = error.__cause__
    reason = next(text for kind, text in _REASONS.items() if isinstance(error, kind))
    files = ", ".join(file.name for file in model.files)
    if model.weights:
        files += f", {' or '.join(file.name for file in model.weights)}"
    if INDEX in files:
        files += " with the files that it names"
    page = f"https://huggingface.co/{model.repository}/tree/{model.revision}"
    return (
        f"{model.repository}: {reason} ({type(error).__name__}: {' '.join(str(error).split())}). "
        f"Run again, or put {files} of {page} into {by_hand}. HF_ENDPOINT names a mirror of the "
        "hub, HF_HOME a folder with more room."
    )
