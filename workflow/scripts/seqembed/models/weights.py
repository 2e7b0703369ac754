"""Checkpoints of every family: read without building a model, and built up to one layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seqembed.errors import ModelError, named
from seqembed.models import dnabert_s_weights, esm2_weights
from seqembed.models.architecture import Architecture, Esm2Architecture
from seqembed.models.dnabert_s import DnabertS
from seqembed.models.encoder import Encoder
from seqembed.models.esm2 import Esm2
from seqembed.models.fair_esm import read_fair_esm
from seqembed.models.hugging_face import EXPECTED, find_weights, read_architecture
from seqembed.models.loading import Weight, check_weights, fill, plain_names
from seqembed.models.tensors import State, read_state


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint holds, under its own names; `path` is the file the tensors come from."""

    architecture: Architecture
    state: State
    path: Path


def read_checkpoint(source: Path) -> Checkpoint:
    """Read a Hugging Face folder or a fair-esm `.pt` file, without building the model.

    Raises:
        ModelError: the source is neither, is of no known family, is damaged, or would execute code.
    """
    if source.is_dir():
        architecture, path = read_architecture(source), find_weights(source)
        return Checkpoint(architecture=architecture, state=read_state(path), path=path)
    if not source.exists():
        raise ModelError(f"{source}: does not exist; {EXPECTED}")
    if source.suffix != ".pt":
        raise ModelError(f"{source}: is not a model that can be read; {EXPECTED}")
    architecture, state = read_fair_esm(source)
    return Checkpoint(architecture=architecture, state=state, path=source)


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Raises ModelError, with the file's name, unless every layer can be built."""
    with named(checkpoint.path):
        _plan(checkpoint, checkpoint.architecture.layers)


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
    if isinstance(architecture, Esm2Architecture):
        state: State = plain_names(checkpoint.state, esm2_weights.PREFIXES)
        weights = esm2_weights.esm2_weights(architecture, layer, state)
        buffers = esm2_weights.esm2_buffers(architecture, state)
    else:
        state = plain_names(checkpoint.state, dnabert_s_weights.PREFIXES)
        weights = dnabert_s_weights.dnabert_weights(architecture, layer, state)
        buffers = {}  # ALiBi's slopes are in no checkpoint
    check_weights(state, weights)
    return state, weights, buffers
