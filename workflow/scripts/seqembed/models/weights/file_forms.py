"""Recognise a file of weights by its first bytes, and refuse a file that is something else."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Literal

from seqembed.errors import ModelError

Form = Literal["safetensors", "zip", "other"]
_UNPACK = "unpack it, and give the model's folder or file that was in it"
_DOWNLOAD = "download the weights again"
# The first bytes of other files, the name of each form, and what to do.
_OTHER_FORMS = {
    rb"$": ("an empty file", _DOWNLOAD),
    rb"version https://git-lfs": (
        "a git-lfs pointer in place of the weights",
        "fetch them with `git lfs pull`",
    ),
    rb"\s*[<{\[]": ("a web page or an error, as a failed download leaves it", _DOWNLOAD),
    # gzip, bzip2, xz, zstd, 7z; and tar, which has its word behind the first name.
    rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|.{257}ustar": (
        "an archive or a compressed file",
        _UNPACK,
    ),
    rb"\x89HDF": ("an HDF5 file, as TensorFlow writes it", "save the weights with PyTorch"),
    rb"GGUF": ("a GGUF file of quantised weights", "take the model's weights as safetensors"),
}


def find_form(path: Path) -> Form:
    """The form of a file of weights; PyTorch's are zip archives, but for old ones.

    Raises ModelError, which names the form, for a file of anything else.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    # Safetensors begin with the length of their JSON in 8 bytes.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "safetensors"
    for begin, (form, advice) in _OTHER_FORMS.items():
        if re.match(begin, head, re.DOTALL):
            raise _refusal(path, form, advice)
    if not head.startswith(b"PK\x03\x04"):
        return "other"
    _refuse_other_archives(path)
    return "zip"


def _refuse_other_archives(path: Path) -> None:
    """Refuse a zip archive that torch.save did not write; a damaged one is left to its reader."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return
    if any(name.endswith("/constants.pkl") for name in names):
        form = "a TorchScript archive, which holds a program"
        raise _refusal(path, form, "save the weights alone, with the model's own save_pretrained")
    if not any(name.endswith("/data.pkl") for name in names):
        raise _refusal(path, "a zip archive", _UNPACK)


def _refusal(path: Path, form: str, advice: str) -> ModelError:
    return ModelError(f"{path}: cannot be read: it is {form}; {advice}")
