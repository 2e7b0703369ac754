"""What a file of weights is by its first bytes, so that a wrong one is refused by what it is."""

from __future__ import annotations

import zipfile
from pathlib import Path

from seqembed.errors import ModelError

# The bytes a file begins with, what it then is, and what to do.
FORMS = (
    (
        b"version https://git-lfs",
        "a git-lfs pointer in place of the weights",
        "fetch them with `git lfs pull`",
    ),
    (b"\x1f\x8b", "compressed with gzip", "unpack it"),
    (b"BZh", "compressed with bzip2", "unpack it"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (
        b"\x89HDF",
        "an HDF5 file, as TensorFlow writes it",
        "save the model's weights with PyTorch",
    ),
    (b"GGUF", "a GGUF file of quantised weights", "take the model's weights as safetensors"),
    (b"\x93NUMPY", "an array of NumPy", "save the model's weights with PyTorch"),
)
PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head")
UNPACK = "unpack it, and give the model's folder or file that was in it"
DOWNLOAD = "download the weights again"
# A tar archive says so behind its first entry's name.
TAR, TAR_PLACE = b"ustar", 257
ZIP = b"PK\x03\x04"


def refuse_other_forms(path: Path) -> None:
    """Raises ModelError for a file that cannot be one of weights, and says what it is.

    Only its first bytes are read, and the list of an archive's members.
    """
    head = _read_head(path)
    if not head:
        raise _refusal(path, "an empty file", DOWNLOAD)
    for start, form, advice in FORMS:
        if head.startswith(start):
            raise _refusal(path, form, advice)
    if head.lstrip().lower().startswith(PAGES):
        raise _refusal(path, "a web page, as a failed download leaves it", DOWNLOAD)
    if head.lstrip().startswith((b"{", b"[")):
        raise _refusal(path, "a text in JSON", DOWNLOAD)
    if head[TAR_PLACE:].startswith(TAR):
        raise _refusal(path, "a tar archive", UNPACK)
    if head.startswith(ZIP):
        _refuse_archive(path)


def is_zip(path: Path) -> bool:
    """Whether the file is a zip archive, as those of PyTorch are."""
    return _read_head(path).startswith(ZIP)


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as safetensors do: 8 bytes of length, then JSON."""
    head = _read_head(path)
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= path.stat().st_size


def _refuse_archive(path: Path) -> None:
    """Refuse a zip archive that torch.save did not write; a damaged one is left to its reader."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return
    if any(name.endswith("/constants.pkl") for name in names):
        raise _refusal(
            path,
            "a TorchScript archive, which holds a program",
            "save the weights alone, with the model's own save_pretrained",
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise _refusal(path, "a zip archive", UNPACK)


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error


def _refusal(path: Path, form: str, advice: str) -> ModelError:
    return ModelError(f"{path}: cannot be read: it is {form}; {advice}")
