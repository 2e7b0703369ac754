"""What the GPU's measurements use of the library: a change of its interfaces is followed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from shapes import Shape
from torch import Tensor

from seqembed.inference.batches import MIN_BATCH_TOKENS
from seqembed.models.encoders.attention import Packing, alibi_table
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.prepare import load_prepared
from seqembed.models.prepared import read_prepared
from seqembed.settings.precision import DTYPES

# How an encoder's elementwise steps may be computed, the worker's way first.
KERNELS = ("chosen",)
# ESM-2's residues among its token ids; DNABERT-S has these ids, and more.
RESIDUES = (4, 24)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def product_rows(shape: Shape, precision: str) -> int:
    """Return how many rows the matrix products of a worker on a GPU have."""
    if precision == "fp32":
        return 4096
    return 16384 if shape.width <= 1280 else 8192


def load_encoder(model: Path, precision: str, device: str, kernels: str = KERNELS[0]) -> Encoder:
    """Return the encoder of a prepared model up to its last layer, on the device.

    model: the model's JSON file. kernels: one of KERNELS.
    """
    layer = read_prepared(model).layer("last")
    return load_prepared(model, layer, DTYPES[precision]).to(device)


def random_sequence(length: int, seed: int) -> Tensor:
    """Return the (length,) int64 token ids of a random sequence, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(*RESIDUES, (length,), generator=generator)


def pack(sequences: Sequence[Tensor], device: str) -> tuple[Tensor, Packing]:
    """Return the tokens and the packing of a batch on the device, filled up as a worker does it.

    sequences: the (length,) token ids of each sequence. The batch's first tokens are theirs.
    """
    lengths = [*map(len, sequences)]
    if (missing := MIN_BATCH_TOKENS - sum(lengths)) > 0:
        sequences, lengths = [*sequences, sequences[0].new_full((missing,), 4)], [*lengths, missing]
    packing = Packing.of(lengths)
    moved = Packing(packing.bounds, packing.cu_seqlens.to(device))
    return torch.cat([*sequences]).to(device), moved


def attention_alone(model: Encoder, packing: Packing) -> Attend:
    """Return the attention of one layer of the model over a batch, as a function of q, k and v."""
    table = None
    if model.alibi:
        dtype = next(model.parameters()).dtype
        table = alibi_table(model.slopes, packing.longest, dtype)  # type: ignore[arg-type]
    return model.attend_over(packing, table)
