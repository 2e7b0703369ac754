"""Read the tensors of a checkpoint, as weights only: nothing in a file is ever executed."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from seqembed.errors import ModelError, named, show
from seqembed.models.source import (
    CONFIG,
    INDEX,
    LFS_POINTER,
    PICKLED,
    SAFETENSORS,
    read_weight_map,
)

# The dtypes of weights, by safetensors' names. Tensors of whole numbers are quantised weights.
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
SAVE = (
    "save the weights alone, with the model's save_pretrained() or, if it has none, with "
    "torch.save(model.state_dict(), 'model.pt')"
)
TOO_LARGE = (
    "it is larger than this machine's memory and swap, so that Linux may refuse to map it: add "
    "swap, or save the model in smaller files, with save_pretrained(folder, max_shard_size='4GB'); "
    "if neither helps, copy it again"
)
CONTACTS = "contact_head."
# A safetensors file is mapped into memory anew after so many bytes of it.
MAPPED_BYTES = 1 << 26
_UNPACK = "unpack it, and give the folder or file of the model that it holds"
_PACKED = f"an archive or a compressed file; {_UNPACK}"
_DOWNLOAD = "download the weights again"
# What the first bytes of a file without weights match, what the file is, and what to do.
_OTHER_FORMS = {
    rb"$": f"an empty file; {_DOWNLOAD}",
    LFS_POINTER: "a git-lfs pointer to weights; fetch these: `git lfs pull`",
    rb"\s*[<{\[]": f"a web page or an error message of a failed download; {_DOWNLOAD}",
    # gzip, bzip2, xz, zstd, 7z; and tar, which has "ustar" at byte 257.
    rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|.{257}ustar": _PACKED,
    rb"\x89HDF": "an HDF5 file, as TensorFlow writes it; save the weights with PyTorch",
    rb"GGUF": "a GGUF file of quantised weights; take the model's weights as safetensors",
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file; floating: whether its dtype is in FLOATS; read: loads the tensor."""

    shape: tuple[int, ...]
    floating: bool
    read: Callable[[], Tensor]


# The tensors of a checkpoint by name.
State = Mapping[str, Stored]


def read_state(weights: Path) -> State:
    """Return the tensors, by name, of a safetensors file, a pickled file, or all files of an index.

    weights: the path of the file or index. Raises ModelError if a file is damaged or missing, or
    lacks a tensor that the index names.
    """
    mapped = SAFETENSORS in weights.name

    def read_file(path: Path, most: int) -> State:
        return _read_safetensors(path, most) if mapped else _read_pickled(path)

    if not weights.name.endswith(INDEX):
        return read_file(weights, MAPPED_BYTES)
    places = read_weight_map(weights)
    paths = sorted(set(places.values()))
    parts = {path: read_file(path, MAPPED_BYTES // len(paths)) for path in paths}
    for name, path in places.items():
        if name not in parts[path]:
            message = f"lacks {name!r}, which {weights.name} names; copy both files again"
            raise ModelError(f"{path}: {message}")
    # Tensors that the index does not name are kept, because an adapter's must be refused.
    held = {name: stored for part in parts.values() for name, stored in part.items()}
    return held | {name: parts[path][name] for name, path in places.items()}


def load_pickled(path: Path) -> Any:
    """Return the content of a file that torch.save wrote.

    Raises ModelError if the file has another form, is damaged, or holds objects other than tensors,
    containers, numbers, texts and argparse.Namespace.
    """
    archive = (form := find_form(path)) == "zip"
    refusal = f"{path}: cannot be read as weights"
    if form == "safetensors":
        message = f"it is a safetensors file; name it {SAFETENSORS}, in a folder with {CONFIG}"
        raise ModelError(f"{refusal}: {message}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Only archives can be mapped; old PyTorch versions wrote files of another form.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # damaged bytes make torch's reader raise any of many types
        kind = type(error).__name__
        if objects := _list_objects(path):
            reason = f"it holds Python objects ({show(objects)}), which are never loaded; {SAVE}"
        elif _exceeds_memory(path):
            reason = TOO_LARGE
        elif archive:
            reason = f"it is damaged or incomplete ({kind}); copy or download it again"
        else:
            fault = f"it is damaged, or holds more than weights ({kind})"
            reason = f"{fault}; if it is damaged, copy it again; otherwise {SAVE}"
        raise ModelError(f"{refusal}: {reason}") from error


def check_state(content: Any) -> State:
    """Return the tensors in a pickled file's content; ModelError unless all are named tensors."""
    if not isinstance(content, Mapping):
        raise ModelError(f"holds a {type(content).__name__} in place of named weights; {SAVE}")
    if not content:
        raise ModelError(f"holds no weights; {SAVE}")
    others = [k for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others:
        model = content.get("model")
        if isinstance(model, Mapping) and model and all(str(n).startswith(CONTACTS) for n in model):
            raise ModelError(
                "holds the contact regression of an ESM-2, not the model; give the file "
                "without `-contact-regression` in its name"
            )
        what = f"entries that are not named tensors ({show([*map(str, others)])}), as a checkpoint"
        raise ModelError(f"holds {what} of training or an optimizer's state does; {SAVE}")
    return {
        name: Stored(tuple(tensor.shape), tensor.dtype in FLOATS.values(), tensor.detach)
        for name, tensor in content.items()
    }


def _list_objects(path: Path) -> list[str]:
    """Return the names of forbidden classes and functions in a pickled file; [] if damaged."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 (damaged bytes raise any of many types)
        return []


def _read_pickled(path: Path) -> State:
    content = load_pickled(path)
    with named(path):
        return check_state(content)


def _read_safetensors(path: Path, most: int) -> State:
    if find_form(path) == "zip":
        raise ModelError(f"{path}: cannot be read: it is a PyTorch file; name it {PICKLED}")
    mapped, state = _MappedFile(path, most), {}
    with _damage_named(path):
        for name in mapped.file.keys():  # noqa: SIM118
            header = mapped.file.get_slice(name)
            shape, floating = tuple(header.get_shape()), header.get_dtype() in FLOATS
            state[name] = Stored(shape, floating, partial(mapped.read, name))
    return state


class _MappedFile:
    """A safetensors file in memory: `file` gives its tensors' names and headers, `read` a tensor.

    The kernel reads a tensor's bytes when they are used first. From then on they count as memory
    of this process, until the mapping that they belong to is closed. most: how many bytes may be
    read before the file is mapped anew. Raises ModelError for a file that is damaged.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most = path, most
        self._map()

    def _map(self) -> None:
        # Linux may count both mappings in full, so the old one is closed first.
        self.file: Any = None
        with _damage_named(self._path):
            self.file = safe_open(self._path, framework="pt")
        self._left = self._most

    def read(self, name: str) -> Tensor:
        """Return a tensor, which keeps its mapping open."""
        if self._left <= 0:
            self._map()
        tensor: Tensor = self.file.get_tensor(name)
        self._left -= tensor.nbytes
        return tensor


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, RuntimeError) as error:
        advice = TOO_LARGE if _exceeds_memory(path) else "copy it again"
        raise ModelError(f"{path}: cannot be read ({error}); {advice}") from error


def _exceeds_memory(path: Path) -> bool:
    """Whether Linux by default refuses to map a file: it is larger than memory and swap."""
    memory: int = psutil.virtual_memory().total + psutil.swap_memory().total
    return path.exists() and path.stat().st_size > memory


def find_form(path: Path) -> str:
    """Return a weights file's form: "safetensors", "zip" (PyTorch's) or "other" (old PyTorch's).

    Raises ModelError if the file cannot be read, or if it is of a known form without weights.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); copy it again") from error
    # A safetensors file begins with the length of its JSON header in 8 bytes.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "safetensors"
    archive = head.startswith(b"PK\x03\x04")
    fitting = (form for begin, form in _OTHER_FORMS.items() if re.match(begin, head, re.DOTALL))
    if other := _find_other_archive(path) if archive else next(fitting, None):
        raise ModelError(f"{path}: cannot be read: it is {other}")
    return "zip" if archive else "other"


def _find_other_archive(path: Path) -> str | None:
    """Return what a zip archive is, and what to do; None if damaged, or made by torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return None
    if any(name.endswith("/constants.pkl") for name in names):
        return f"a TorchScript archive, which holds a program; {SAVE}"
    return None if any(n.endswith("/data.pkl") for n in names) else f"a zip archive; {_UNPACK}"
