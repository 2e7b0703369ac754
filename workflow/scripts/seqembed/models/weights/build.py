"""Check a checkpoint, and build it as an encoder up to one layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seqembed.errors import ModelError, count_of, named, show
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.source import WEIGHTS
from seqembed.models.weights.checkpoint import Checkpoint
from seqembed.models.weights.encoder_names import find_encoder
from seqembed.models.weights.layout import Weight
from seqembed.models.weights.tensors import State, Stored, read_state


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Raise ModelError, with the file's name, unless every layer can be built of finite numbers.

    Every weight that is used is read, one at a time.
    """
    with named(checkpoint.path):
        state, weights = _plan(checkpoint, checkpoint.architecture.layers)
        _check_values(state, weights)


def refuse_other_copies(folder: Path, checkpoint: Checkpoint) -> None:
    """Raise ModelError if another file in the folder has other values for a weight of this one.

    Only the user knows which of the two is meant, as when a fine-tuned model was saved over a
    downloaded one. Files that cannot be read are skipped.
    """
    own = find_encoder(checkpoint.state, checkpoint.layout).encoder
    for other in (folder / name for name in WEIGHTS):
        if other == checkpoint.path or not other.exists():
            continue
        try:
            copy = find_encoder(read_state(other), checkpoint.layout).encoder
        except ModelError:
            continue
        shared = [n for n in own if n in copy and n.startswith(("embeddings.", "encoder."))]
        for name in shared:
            if not _are_equal(own[name].read(), copy[name].read()):
                raise ModelError(
                    f"{folder}: {checkpoint.path.name} and {other.name} have other values for "
                    f"{name!r}; remove the one that is not meant"
                )


def build_model(checkpoint: Checkpoint, layer: int, dtype: torch.dtype = torch.float32) -> Encoder:
    """The encoder up to a layer in eval mode, in `dtype`; a ModelError names the file.

    Weights are read and cast one by one, so that peak memory is little above the encoder's own.
    """
    with named(checkpoint.path):
        with _NoWeights():
            encoder = checkpoint.layout.encoder(checkpoint.architecture, layer)
        state, weights = _plan(checkpoint, layer)
        # Buffers stay as exact as the checkpoint has them.
        buffers = dict(encoder.named_buffers())
        filled = {
            own: _make(state, weight, torch.float32 if own in buffers else dtype)
            for own, weight in weights.items()
        }
        encoder.load_state_dict(buffers | filled, assign=True)
        return encoder.requires_grad_(False).eval()


class _NoWeights(TorchFunctionMode):
    """Gives new weights no memory and no values.

    Not `torch.device("meta")`: what else an encoder computes would be computed there too, for
    which PyTorch imports torch._dynamo and sympy, a second of a worker's start and 70 MB.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return None
        memory = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **(kwargs or {}) | memory)


def _plan(checkpoint: Checkpoint, layer: int) -> tuple[State, dict[str, Weight]]:
    """The tensors by plain name, and a Weight for each of the encoder's up to `layer`.

    Raises ModelError where the whole model cannot be made of the tensors, and for other tensors
    that may change its rows.
    """
    architecture, layout = checkpoint.architecture, checkpoint.layout
    # A configuration that claims a million layers must not keep us looking for them.
    if architecture.layers > (held := len(checkpoint.state)):
        raise ModelError(f"has {held:,} weights, too few for {architecture.layers:,} layers")
    names = find_encoder(checkpoint.state, layout)
    weights = layout.weights(architecture, architecture.layers, names.encoder)
    for weight in weights.values():
        for name, shape in weight.parts.items():
            _find(names.encoder, name, shape)
    used = {name for weight in weights.values() for name in weight.parts}
    names.refuse_unknown(used, layout.unused)
    return names.encoder, layout.weights(architecture, layer, names.encoder)


def _check_values(state: State, weights: Mapping[str, Weight]) -> None:
    """Raise ModelError for weights with NaN or infinite values, and for lost ones.

    A layer's matrix of zeros alone was lost: its file was not written to the end.
    """
    bad, lost = [], []
    for own, weight in weights.items():
        parts = {name: _read_part(state, name, shape) for name, shape in weight.parts.items()}
        # Fails where the parts contradict each other.
        weight.make(*parts.values())
        for name, tensor in parts.items():
            if count := _count_not_finite(tensor):
                bad.append(f"{name}: {count:,} of {tensor.numel():,}")
            elif own.startswith("layers.") and tensor.dim() > 1 and not tensor.any():
                lost.append(name)
    if bad:
        raise ModelError(
            f"holds {count_of(len(bad), 'weight')} with NaN or infinite values ({show(bad)}); the "
            "file is damaged or training diverged: copy it again, or take an earlier checkpoint"
        )
    if lost:
        raise ModelError(
            f"holds {count_of(len(lost), 'weight')} of zeros alone ({show(lost)}); the file was "
            "not written to its end: copy it again"
        )


def _count_not_finite(tensor: Tensor) -> int:
    """Count the values of a float32 tensor that are not finite."""
    # A sum is several times faster than a look at each value. It is finite only if all values are;
    # where it overflows, the values are counted.
    return 0 if tensor.sum().isfinite() else int(tensor.isfinite().logical_not().sum())


def _are_equal(one: Tensor, other: Tensor) -> bool:
    """Compare two tensors in the shorter of their dtypes."""
    short = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(one.to(short), other.to(short))


def _make(state: State, weight: Weight, dtype: torch.dtype) -> Tensor:
    made = weight.make(*(_read_part(state, name, shape) for name, shape in weight.parts.items()))
    # A copy of our own, so that the file can be let go. Other strides than the plain ones would
    # choose other kernels, and other last bits.
    return made.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _read_part(state: State, name: str, shape: tuple[int, ...]) -> Tensor:
    """One of a checkpoint's tensors as float32."""
    return _find(state, name, shape).read().float()


def _find(state: State, name: str, shape: tuple[int, ...]) -> Stored:
    """A tensor of a checkpoint; ModelError where it is missing, misshapen or quantised."""
    if name not in state:
        raise ModelError(f"lacks the weight {name!r}; save the model with its own save_pretrained")
    stored = state[name]
    if stored.shape != shape:
        raise ModelError(
            f"weight {name!r} has shape {stored.shape}, but {shape} by the model's settings"
        )
    if not stored.floating:
        raise ModelError(f"weight {name!r} is quantised; only fp16, bf16, fp32 and fp64 are read")
    return stored
