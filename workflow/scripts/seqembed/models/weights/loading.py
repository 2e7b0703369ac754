"""From a checkpoint's tensors to an encoder's weights, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seqembed.errors import ModelError, count_of, show
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.weights.tensors import State, Stored


@dataclass(frozen=True)
class Weight:
    """How one weight is made of a checkpoint's.

    parts: their names and shapes; make: puts them, as float32 in this order, together.
    """

    parts: Mapping[str, tuple[int, ...]]
    make: Callable[..., Tensor] = lambda tensor: tensor


def check_weights(state: State, weights: Mapping[str, Weight]) -> None:
    """Raises ModelError for a weight that is missing, misshapen or quantised; reads none."""
    for weight in weights.values():
        for name, shape in weight.parts.items():
            _find(state, name, shape)


def check_values(state: State, weights: Mapping[str, Weight]) -> None:
    """Raises ModelError for NaN or infinities in the weights that are used, and for lost ones.

    A layer's matrix of nothing but zeros was lost: it is of a file that was not written to its end.
    One weight is read at a time.
    """
    bad, lost = [], []
    for own, weight in weights.items():
        for name, shape in weight.parts.items():
            tensor = read_part(state, name, shape)
            if count := _count_not_finite(tensor):
                bad.append(f"{name}: {count:,} of {tensor.numel():,}")
            elif own.startswith("layers.") and len(shape) > 1 and not tensor.any():
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


def read_part(state: State, name: str, shape: tuple[int, ...]) -> Tensor:
    """One of a checkpoint's weights as float32, or a ModelError that names it."""
    return _find(state, name, shape).read().float()


def fill(
    encoder: Encoder,
    state: State,
    weights: Mapping[str, Weight],
    buffers: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> Encoder:
    """Give an encoder without weights its own, in `dtype`, and make it ready for use.

    buffers: those of its buffers that are not as it has them already. Raises ModelError where
    check_weights does.
    """
    filled = {name: _make(state, weight, dtype) for name, weight in weights.items()}
    encoder.load_state_dict(dict(encoder.named_buffers()) | filled | dict(buffers), assign=True)
    return encoder.requires_grad_(False).eval()


def _find(state: State, name: str, shape: tuple[int, ...]) -> Stored:
    if name not in state:
        raise ModelError(f"the checkpoint lacks the weight {name!r}")
    stored = state[name]
    if stored.shape != shape:
        raise ModelError(f"weight {name!r} has shape {stored.shape}, expected {shape}")
    if not stored.floating:
        raise ModelError(f"weight {name!r} is quantised; only fp16, bf16, fp32 and fp64 are read")
    return stored


def _make(state: State, weight: Weight, dtype: torch.dtype) -> Tensor:
    parts = (read_part(state, name, shape) for name, shape in weight.parts.items())
    made = weight.make(*parts)
    # A copy of our own, so that the file can be let go. Other strides than the plain ones would
    # choose other kernels, and other last bits.
    return made.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _count_not_finite(tensor: Tensor) -> int:
    """How many values of a float32 tensor are not finite."""
    # A sum is several times faster than a look at each value. It is finite only if all values are;
    # where it overflows, the values are counted.
    return 0 if tensor.sum().isfinite() else int(tensor.isfinite().logical_not().sum())
