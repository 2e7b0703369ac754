"""Checkpoints of every family: read without building a model, and built up to one layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seqembed.errors import ModelError, named
from seqembed.models.encoders.dnabert_s import DnabertS
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.encoders.esm2 import Esm2
from seqembed.models.families import Architecture, DnabertArchitecture, Esm2Architecture
from seqembed.models.weights import dnabert_s as dnabert_s_weights
from seqembed.models.weights import esm2 as esm2_weights
from seqembed.models.weights.encoder_names import find_encoder, plain_names
from seqembed.models.weights.fair_esm import read_fair_esm
from seqembed.models.weights.hugging_face import EXPECTED, find_weights, read_architecture
from seqembed.models.weights.loading import Weight, check_values, check_weights, fill
from seqembed.models.weights.other_models import refuse_changes, refuse_other_models
from seqembed.models.weights.tensors import State, read_state
from seqembed.models.weights.unused_weights import DNABERT_UNUSED, ESM2_UNUSED, refuse_unknown

OTHER_SUFFIXES = {
    ".ckpt": " but a checkpoint of training (Lightning's): save the weights in it alone",
    ".safetensors": ": give the folder it lies in",
    ".bin": ": give the folder it lies in",
    ".gz": ": unpack it",
    ".zip": ": unpack it",
    ".tar": ": unpack it",
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint holds, under its own names; `path` is the file the tensors come from."""

    architecture: Architecture
    state: State
    path: Path


def read_checkpoint(source: Path) -> Checkpoint:
    """Read a Hugging Face folder or an ESM-2's `.pt` file, without building the model.

    Raises:
        ModelError: the source is neither, is of no known family, is damaged, or would execute code.
    """
    if source.is_dir():
        architecture, path = read_architecture(source), find_weights(source)
        return Checkpoint(architecture=architecture, state=read_state(path), path=path)
    if not source.exists():
        raise ModelError(f"{source}: does not exist; {EXPECTED}")
    if source.suffix != ".pt":
        advice = OTHER_SUFFIXES.get(source.suffix, "")
        raise ModelError(f"{source}: is not a model that can be read{advice}; {EXPECTED}")
    architecture, state = read_fair_esm(source)
    return Checkpoint(architecture=architecture, state=state, path=source)


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Raises ModelError, with the file's name, unless every layer can be built; reads no weight."""
    with named(checkpoint.path):
        _plan(checkpoint, checkpoint.architecture.layers)


def check_finite(checkpoint: Checkpoint) -> None:
    """Raises ModelError, with the file's name, for NaN or infinities in weights that are used.

    Every weight is read, one at a time.
    """
    with named(checkpoint.path):
        state, weights, _ = _plan(checkpoint, checkpoint.architecture.layers)
        check_values(state, weights)


def build_model(checkpoint: Checkpoint, layer: int, dtype: torch.dtype = torch.float32) -> Encoder:
    """The encoder up to a layer in eval mode, in `dtype`; a ModelError names the file.

    Weights are read and cast one by one, so that memory peaks little above the encoder's own.
    """
    with named(checkpoint.path):
        encoder = _outline(checkpoint.architecture, layer)
        state, weights, buffers = _plan(checkpoint, layer)
        return fill(encoder, state, weights, buffers, dtype)


def _outline(architecture: Architecture, layer: int) -> Encoder:
    """The encoder without memory for its weights."""
    with _NoWeights():
        if isinstance(architecture, Esm2Architecture):
            return Esm2(architecture, layer)
        assert isinstance(architecture, DnabertArchitecture)
        return DnabertS(architecture, layer)


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


def _plan(checkpoint: Checkpoint, layer: int) -> tuple[State, dict[str, Weight], dict[str, Tensor]]:
    """The tensors by plain name, what weights up to `layer` are made of, and its own buffers."""
    architecture, held = checkpoint.architecture, len(checkpoint.state)
    # Whatever a configuration claims, it must not take for ever to look for it.
    if architecture.layers > held:
        raise ModelError(f"has {held:,} weights, too few for {architecture.layers:,} layers")
    # Whoever has changed layers lacks plain ones: what was done to them comes first.
    refuse_changes(plain_names(checkpoint.state))
    refuse_other_models(checkpoint.state)
    layout = _LAYOUTS[type(architecture)]
    names = find_encoder(checkpoint.state, layout.prefixes, layout.embeddings)
    state = names.encoder
    weights = layout.weights(architecture, architecture.layers, state)
    buffers = layout.buffers(architecture, state)
    check_weights(state, weights)
    refuse_unknown(names, _used(weights) | set(layout.buffer_names(state)), layout.unused)
    return state, layout.weights(architecture, layer, state), buffers


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How checkpoints of a family are laid out.

    weights: what the encoder up to a layer is made of; buffers: its buffers that a checkpoint
    holds; buffer_names: the tensors these are read from; unused: matches what else may be there.
    """

    prefixes: tuple[str, ...]
    embeddings: tuple[str, ...]
    weights: Callable[[Any, int, State], dict[str, Weight]]
    buffers: Callable[[Any, State], dict[str, Tensor]]
    buffer_names: Callable[[State], list[str]]
    unused: re.Pattern[str]


_LAYOUTS: dict[type[Architecture], _Layout] = {
    Esm2Architecture: _Layout(
        prefixes=esm2_weights.PREFIXES,
        embeddings=esm2_weights.EMBEDDINGS,
        weights=esm2_weights.esm2_weights,
        buffers=esm2_weights.esm2_buffers,
        buffer_names=esm2_weights.rotary_names,
        unused=ESM2_UNUSED,
    ),
    # ALiBi's slopes are in no checkpoint.
    DnabertArchitecture: _Layout(
        prefixes=dnabert_s_weights.PREFIXES,
        embeddings=dnabert_s_weights.EMBEDDINGS,
        weights=dnabert_s_weights.dnabert_weights,
        buffers=lambda architecture, state: {},
        buffer_names=lambda state: [],
        unused=DNABERT_UNUSED,
    ),
}


def _used(weights: dict[str, Weight]) -> set[str]:
    return {name for weight in weights.values() for name in weight.parts}
