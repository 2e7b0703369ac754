"""What the GPU's measurements use of the library: a change of its interfaces is followed here."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from shapes import Shape
from torch import Tensor

from seqembed.inference import batches, graphs
from seqembed.inference.streams import keep_products_equal
from seqembed.kernels.choice import FUSED, PLAIN
from seqembed.models.encoders import encoder
from seqembed.models.encoders.attention import Attend, Packing
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.load import load_prepared
from seqembed.models.prepared import read_prepared
from seqembed.settings.precision import DTYPES
from seqembed.settings.token_budget import bytes_a_token

# ESM-2's residues among its token ids; DNABERT-S has these ids, and more.
RESIDUES = (4, 24)


def product_rows(shape: Shape, precision: str) -> int:
    """Return how many rows the matrix products of a worker on a GPU have."""
    return encoder.block_rows(shape.width, DTYPES[precision])


@contextmanager
def products_of(rows: int) -> Iterator[None]:
    """Within this context, matrix products on a GPU have `rows` rows, not the worker's number."""

    def block_rows(width: int, dtype: torch.dtype) -> int:
        return rows

    with (
        patch.object(encoder, "block_rows", block_rows),
        patch.object(batches, "block_rows", block_rows),
    ):
        yield


def kernels_of(device: str) -> tuple[str, ...]:
    """Return the ways to compute an encoder's elementwise steps, the worker's way first."""
    return (FUSED, PLAIN) if device == "cuda" else (PLAIN,)


def load_encoder(model: Path, precision: str, device: str, kernels: str | None = None) -> Encoder:
    """Return the encoder of a prepared model up to its last layer, on the device.

    model: the model's JSON file. kernels: one of kernels_of(device); the worker's if unset.
    """
    # fp32 is never TF32, as in a worker.
    keep_products_equal(os.environ)
    layer = read_prepared(model).layer("last")
    made = load_prepared(model, layer, DTYPES[precision], torch.device(device))
    made.kernels = kernels or kernels_of(device)[0]
    return made


def random_sequence(length: int, seed: int) -> Tensor:
    """Return the (length,) int64 token ids of a random sequence, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(*RESIDUES, (length,), generator=generator)


def pack(sequences: Sequence[Tensor], model: Encoder) -> tuple[Tensor, Packing]:
    """Return the tokens and the packing of a batch on the model's device, filled as a worker does.

    sequences: the (length,) token ids of each sequence. The batch's first tokens are theirs.
    """
    weight = next(model.parameters())
    filling = batches.choose_filling(weight.device, model.architecture.width, weight.dtype)
    batch = batches.pack([], [tokens.numpy() for tokens in sequences], filling)
    moved = replace(batch.packing, cu_seqlens=batch.packing.cu_seqlens.to(weight.device))
    return batch.tokens.to(weight.device), moved


def cut_batches(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Return the start and stop of each batch of a worker with this token budget.

    lengths: the tokens of each sequence, in order.
    """
    return list(pairwise(batches.plan_batches(np.array(lengths, np.int64), budget).tolist()))


def activation_bytes(shape: Shape, tokens: int, itemsize: int) -> int:
    """Return the worker's estimate of the memory of a batch; itemsize: the bytes of a value."""
    return tokens * bytes_a_token(shape, itemsize)  # type: ignore[arg-type]


def attention_alone(model: Encoder, packing: Packing) -> Attend:
    """Return the attention of one layer over a batch: (T, 3, heads, head_dim) -> rows."""
    return model.attend_over(packing)


def has_graphs(model: Encoder) -> bool:
    """Whether a worker on a GPU captures CUDA graphs of this model."""
    model_dtype = next(model.parameters()).dtype
    rows = encoder.block_rows(model.architecture.width, model_dtype)
    return graphs.open_graphs(model, rows, logging.getLogger()) is not None


def graphs_of(
    model: Encoder, rows: int, wrap: Callable[[graphs.Capture], graphs.Capture]
) -> graphs.EncoderGraphs:
    """Return the graphs of a model, for batches of `rows` tokens.

    wrap: takes what captures a graph, and returns what is called in its place. On a CPU nothing is
    captured, and the model is called again.
    """
    device = next(model.parameters()).device

    def capture() -> graphs.Capture:
        on_cpu = device.type == "cpu"
        return wrap((lambda work: work) if on_cpu else graphs.CudaCapture(device))

    return graphs.EncoderGraphs(model, rows, logging.getLogger(), capture)
