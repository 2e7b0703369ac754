"""Read what torch.save wrote as weights only: nothing that a file holds is ever executed."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqembed.errors import ModelError, show
from seqembed.models.weights.file_forms import is_safetensors, is_zip, refuse_other_forms
from seqembed.models.weights.other_models import SUPPORTED

SAVE = (
    "save the weights alone, with the model's own save_pretrained or as "
    "torch.save(model.state_dict(), 'model.pt')"
)
# What training programs put beside a model's weights, or in place of them.
OPTIMIZER = {"state", "param_groups"}
TRAINING = {
    "state_dict", "model_state_dict", "optimizer_states", "optimizer_state_dict", "optimizer",
    "pytorch-lightning_version", "epoch", "global_step", "ds_version", "net", "model", "module",
}  # fmt: skip
CONTACTS = "contact_head."


def load_pickled(path: Path) -> Any:
    """torch.load restricted to tensors, plain containers and argparse.Namespace.

    Raises:
        ModelError: the file is none of torch.save, is damaged, or holds other objects.
    """
    refuse_other_forms(path)
    if is_safetensors(path):
        message = (
            "it is a safetensors file; name it model.safetensors, in a folder with config.json"
        )
        raise ModelError(f"{path}: cannot be loaded as weights only: {message}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Files of old versions are no archives, and cannot be mapped.
            mapped = zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # damaged bytes make torch's reader fail in any of many types
        raise ModelError(
            f"{path}: cannot be loaded as weights only: {_reason(path, error)}"
        ) from error


def check_names(path: Path, state: Any) -> Mapping[str, Tensor]:
    """The tensors of what should be a state dict; ModelError, which says what it is, if not."""
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise ModelError(f"{path}: holds a {kind} in place of named weights; {SAVE}")
    if not state:
        raise ModelError(f"{path}: holds no weights; {SAVE}")
    _refuse_training_state(path, state)
    others = [str(k) for k, v in state.items() if not (isinstance(k, str) and _is_tensor(v))]
    if others:
        raise ModelError(
            f"{path}: holds something other than named tensors ({show(others)}); {SAVE}"
        )
    return state


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _refuse_training_state(path: Path, state: Mapping[Any, Any]) -> None:
    if state.keys() >= OPTIMIZER:
        raise ModelError(
            f"{path}: is the state of an optimizer, not a model; give the model's folder or file"
        )
    model = state.get("model")
    if isinstance(model, Mapping) and model and all(str(n).startswith(CONTACTS) for n in model):
        raise ModelError(
            f"{path}: holds the contact regression of an ESM-2, not the model; give the file "
            "without `-contact-regression` in its name"
        )
    found = sorted(k for k in state if k in TRAINING and not _is_tensor(state[k]))
    if found:
        raise ModelError(f"{path}: is a checkpoint of training ({show(found)}); {SAVE}")


def _reason(path: Path, error: Exception) -> str:
    """Why torch's reader refused a file: objects of Python, or damage."""
    objects, kind = _objects_in(path), type(error).__name__
    if objects:
        if _is_esmfold(path):
            return f"it is ESMFold; {SUPPORTED}"
        return f"it holds Python objects ({show(objects)}), which are never built; {SAVE}"
    if is_zip(path):
        return f"it is damaged or incomplete ({kind}); copy or download it again"
    return f"it is damaged, or a pickle of more than weights ({kind}); copy it again, or {SAVE}"


def _objects_in(path: Path) -> list[str]:
    """The classes and functions that a file of torch.save names; empty if it is damaged."""
    if not is_zip(path):
        return []
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 (as above: any of many types, for bytes that are damaged)
        return []


def _is_esmfold(path: Path) -> bool:
    """Whether an archive of torch.save names a folding trunk; its settings are OmegaConf objects.

    Raises nothing for a damaged one: _objects_in has read the same member before.
    """
    with zipfile.ZipFile(path) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        return b"trunk.blocks." in archive.read(member)
