"""Check a model's checkpoint, and build an encoder, up to one layer, from its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seqembed.errors import ModelError, count_of, named, show
from seqembed.models.architectures import Architecture
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.source import WEIGHTS
from seqembed.models.weights.checkpoint import Checkpoint, layout_of
from seqembed.models.weights.formats import State, read_state
from seqembed.models.weights.layout import UNQUANTISED, Weight, find_encoder, refuse_unknown


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Raise ModelError if a weight is missing, misshapen or all zeros, or holds NaN or infinity."""
    bad, lost = [], []
    with named(checkpoint.path):
        state, weights = _plan(checkpoint, checkpoint.architecture.layers)
        for own, weight in weights.items():
            parts = {name: state[name].read().float() for name in weight.parts}
            for name, tensor in parts.items():
                # A sum is several times faster than isfinite, and finite only if all values are.
                finite = tensor.sum().isfinite()
                if not finite and (count := int(tensor.isfinite().logical_not().sum())):
                    bad.append(f"{name}: {count:,} of {tensor.numel():,} values")
                elif own.startswith("layers.") and tensor.dim() > 1 and not tensor.any():
                    lost.append(name)
            if not bad:
                # Raises ModelError if the parts contradict each other.
                weight.make(*parts.values())
        if bad:
            raise ModelError(
                f"holds {count_of(len(bad), 'weight')} with NaN or infinite values ({show(bad)}); "
                "if the file is damaged, copy it again; if the training diverged, take an "
                "earlier checkpoint"
            )
        if lost:
            raise ModelError(
                f"holds {count_of(len(lost), 'weight')} with nothing but zeros ({show(lost)}); "
                "the file was not written to its end: copy it again"
            )


def refuse_other_copies(folder: Path, checkpoint: Checkpoint) -> None:
    """Raise ModelError if a second weights file in `folder` differs from `checkpoint` in a weight.

    Only the user knows which of the two is meant, for example if a fine-tuned model was saved
    over a downloaded one. Skipped are files that cannot be read, and weights that the second file
    has by no name of the first.
    """
    own, weights = _plan(checkpoint, checkpoint.architecture.layers)
    used = [name for weight in weights.values() for name in weight.parts]
    files = [folder / name for name in WEIGHTS if (folder / name).exists()]
    for other in (path for path in files if path != checkpoint.path):
        try:
            copy = find_encoder(read_state(other), checkpoint.layout)
        except ModelError:
            continue
        for name in (name for name in used if name in copy):
            one, two = own[name].read(), copy[name].read()
            short = min(one.dtype, two.dtype, key=lambda dtype: dtype.itemsize)
            if not torch.equal(one.to(short), two.to(short)):
                raise ModelError(
                    f"{folder}: {checkpoint.path.name} and {other.name} have different "
                    f"values for {name!r}; remove the file that you do not mean"
                )


def build_model(
    checkpoint: Checkpoint,
    layer: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Encoder:
    """Return the encoder up to `layer`, in eval mode, its weights in `dtype`, on `device`.

    Each tensor is read once, goes to the device as it is stored, and is cast there. This is done
    weight by weight, so that peak memory of the device is little above the encoder's own; a CPU
    that loads onto a GPU holds a few tensors at a time. Every device gives weights of equal bits.
    Raises ModelError if the checkpoint does not fit its architecture, or lacks the layer.
    """
    with named(checkpoint.path):
        encoder = make_unfilled(checkpoint.architecture, layer)
        state, weights = _plan(checkpoint, layer)
        buffers = dict(encoder.named_buffers())
        filled = {}
        for own, weight in weights.items():
            parts = (state[name].read().to(device).float() for name in weight.parts)
            made = weight.make(*parts)
            # A copy, so that the file can be closed. Contiguous, because other strides lead to
            # other kernels, which give other last bits.
            filled[own] = made.to(
                torch.float32 if own in buffers else dtype,
                copy=True,
                memory_format=torch.contiguous_format,
            )
        return fill(encoder, filled, device)


def make_unfilled(architecture: Architecture, layer: int) -> Encoder:
    """Return the encoder up to `layer`, on the CPU; its weights have neither memory nor values."""
    with _NoWeights():
        return layout_of(architecture).encoder(architecture, layer)


def fill(encoder: Encoder, values: dict[str, Tensor], device: torch.device | str) -> Encoder:
    """Return an encoder of make_unfilled with these values, in eval mode, on the device.

    values: of all weights, by name, and of buffers that are not as they were computed.
    """
    encoder.load_state_dict(dict(encoder.named_buffers()) | values, assign=True)
    # Moves the buffers that have no new values.
    return encoder.requires_grad_(False).eval().to(device)


class _NoWeights(TorchFunctionMode):
    """A context in which new weights get neither memory nor values, but buffers are computed.

    `torch.device("meta")` would leave buffers without values, too, and PyTorch would import
    torch._dynamo and sympy for them, which costs each worker a second and 70 MB.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return None
        memory = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **(kwargs or {}) | memory)


def _plan(checkpoint: Checkpoint, layer: int) -> tuple[State, dict[str, Weight]]:
    """Return the checkpoint's tensors of the encoder, and the encoder's Weights up to `layer`.

    The tensors' names are without the prefix. Raises ModelError if a tensor of any layer is missing
    or has a wrong shape or dtype, or if a tensor that the encoder does not use may change the rows.
    """
    architecture, layout = checkpoint.architecture, checkpoint.layout
    # Without this check, a configuration with a million layers would take a search for each.
    if architecture.layers > (held := len(checkpoint.state)):
        message = f"has {held:,} weights, too few for {architecture.layers:,} layers"
        raise ModelError(f"{message}; correct their number in config.json")
    encoder = find_encoder(checkpoint.state, layout)
    more = tuple(f"{own}.{architecture.layers}." for own in layout.layers)
    if any(name.startswith(more) for name in encoder):
        raise ModelError(
            f"has more layers than its settings say ({architecture.layers}); correct their number "
            "in config.json"
        )
    weights = layout.weights(architecture, architecture.layers, encoder)
    for weight in weights.values():
        for name, shape in weight.parts.items():
            if name not in encoder:
                advice = "save the whole model again with its save_pretrained()"
                raise ModelError(f"lacks the weight {name!r}; {advice}")
            stored = encoder[name]
            if stored.shape != shape:
                raise ModelError(
                    f"weight {name!r} has shape {stored.shape}, but must have {shape} by the "
                    "model's settings; take the weights and the settings from one model"
                )
            if not stored.floating:
                raise ModelError(f"weight {name!r} is quantised; {UNQUANTISED}")
    used = {name for weight in weights.values() for name in weight.parts}
    refuse_unknown(checkpoint.state, layout, used)
    return encoder, layout.weights(architecture, layer, encoder)
