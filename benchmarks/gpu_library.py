"""What the GPU's measurements use of the library: a change of its interfaces is followed here."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from shapes import Family, Shape
from torch import Tensor

from seqembed.inference import batches, graphs
from seqembed.inference.streams import keep_products_equal
from seqembed.kernels.flash_attention import find_options
from seqembed.kernels.names import FUSED, PLAIN
from seqembed.models.architectures import block_rows
from seqembed.models.encoders import encoder
from seqembed.models.encoders.attention import (
    Attend,
    Biases,
    Packing,
    alibi_biases,
    alibi_slopes,
    attend_by_length,
)
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.load import load_prepared
from seqembed.models.prepared import read_prepared
from seqembed.settings.precision import DTYPES
from seqembed.settings.token_budget import bytes_a_token

# Attention of q, k and v, each (T, heads, head_dim), the query scaled; the same for the result.
Compute = Callable[[Tensor, Tensor, Tensor], Tensor]
# Token ids from the first up to the second: a family's residues, and the pieces of DNA in DNABERT's
# vocabulary, which follow its special tokens.
RESIDUES: dict[Family, tuple[int, int]] = {
    "esm2": (4, 24),
    "esmc": (4, 24),
    "prot_t5": (3, 23),
    "ankh": (3, 23),
    "dnabert_s": (5, 4096),
}
# A T5's random biases are of keys that are less than this many tokens before or after the query.
FARTHEST = 16384
# What a worker's log has: by which steps it computes, and that it went on without CUDA graphs.
KERNELS = re.compile(r" model .+ on .+, \S+, kernels (\S+), recipe ")
GRAPHS_FAILED = "CUDA graphs failed"
WARNING = " WARNING "


class Bias(NamedTuple):
    """What attention adds to its scores by distance.

    make: takes the number of tokens of the longest sequence; returns the Biases. slopes: ALiBi's,
    (heads,) float32; None in a T5.
    """

    make: Callable[[int], Biases]
    slopes: Tensor | None = None


def product_rows(shape: Shape, precision: str) -> int:
    """Return how many rows the matrix products of a worker on a GPU have."""
    return block_rows(shape.width, DTYPES[precision].itemsize)


@contextmanager
def products_of(rows: int) -> Iterator[None]:
    """Within this context, matrix products on a GPU have `rows` rows, not the worker's number."""

    def given_rows(width: int, itemsize: int) -> int:
        return rows

    with (
        patch.object(encoder, "block_rows", given_rows),
        patch.object(batches, "block_rows", given_rows),
    ):
        yield


def kernels_of(device: str) -> tuple[str, ...]:
    """Return the ways to compute an encoder's elementwise steps, the worker's way first."""
    return (FUSED, PLAIN) if device == "cuda" else (PLAIN,)


def load_encoder(model: Path, precision: str, device: str, kernels: str | None = None) -> Encoder:
    """Return the encoder of a prepared model up to its last layer, on the device.

    model: the model's JSON file. kernels: one of kernels_of(device); the worker's if unset.
    """
    keep_products_exact()
    layer = read_prepared(model).layer("last")
    made = load_prepared(model, layer, DTYPES[precision], torch.device(device))
    made.kernels = kernels or kernels_of(device)[0]
    return made


def keep_products_exact() -> None:
    """Let no product round fp32 values to TF32, as a worker does; call it before the first one."""
    keep_products_equal(os.environ)


def random_sequence(length: int, seed: int, family: Family) -> Tensor:
    """Return the (length,) int64 token ids of a random sequence, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(*RESIDUES[family], (length,), generator=generator)


def pack(sequences: Sequence[Tensor], model: Encoder) -> tuple[Tensor, Packing]:
    """Return the tokens and the packing of a batch on the model's device, filled as a worker does.

    sequences: the (length,) token ids of each sequence. The batch's first tokens are theirs.
    """
    weight = next(model.parameters())
    filling = batches.choose_filling(weight.device, model.architecture.width, weight.dtype)
    batch = batches.pack([], [tokens.numpy() for tokens in sequences], filling)
    return batch.tokens.to(weight.device), batch.packing.to(weight.device)


def packing_of(lengths: Sequence[int], device: str) -> Packing:
    """Return the packing of sequences of these lengths, on the device."""
    return Packing.of(lengths).to(device)


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
    itemsize = next(model.parameters()).itemsize
    rows = block_rows(model.architecture.width, itemsize)
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
        return wrap(
            (lambda work: work) if on_cpu else graphs.CudaCapture(torch.cuda.Stream(device))
        )

    return graphs.EncoderGraphs(model, rows, logging.getLogger(), capture)


def check_worker(log: Path, device: str) -> None:
    """Raise SystemExit if a worker on a GPU took plain steps, or its CUDA graphs failed.

    log: the worker's log, which several processes may have written one after another.
    """
    lines = log.read_text(encoding="utf-8").splitlines()
    if device == "cuda" and (problem := find_problem(lines)):
        warnings = [line for line in lines if WARNING in line]
        raise SystemExit("\n".join([problem, *warnings]))


def find_problem(lines: Sequence[str]) -> str | None:
    """Return what a worker did otherwise than one on a GPU should; None if nothing."""
    kernels = {found[1] for line in lines if (found := KERNELS.search(line))}
    if kernels != {FUSED}:
        named = ", ".join(sorted(kernels)) or "none"
        return f"the worker's log names kernels {named}, where a GPU has {FUSED}"
    if any(GRAPHS_FAILED in line for line in lines):
        return "the worker goes on without graphs"
    return None


def are_used(found: graphs.EncoderGraphs) -> bool:
    """Return whether there are graphs, and none has failed."""
    return found._graphs is not None


def bias_of(shape: Shape, device: str) -> Bias | None:
    """Return a shape's Bias, on the device; None if it has none. A T5's are random."""
    if shape.family == "dnabert_s":
        slopes = alibi_slopes(shape.heads).to(device)
        return Bias(partial(alibi_biases, slopes), slopes)
    if not shape.t5:
        return None
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(shape.heads, 2 * FARTHEST - 1, generator=generator).to(device)
    # A distance has one bias, however long the longest sequence is.
    return Bias(lambda n: Biases(drawn[:, FARTHEST - n : FARTHEST + n - 1].contiguous()))


def has_triton() -> bool:
    """Return whether the kernel for attention with biases by distance can be imported."""
    return importlib.util.find_spec("triton") is not None


def attend_by_kernel(
    packing: Packing, bias: Bias | None, tiles: Sequence[int] | None = None
) -> Compute:
    """Return attention by that kernel; tiles: its Tiles, its own choice if unset."""
    from seqembed.kernels.biased_attention import Tiles, attend_biased

    longest = packing.longest
    biases = None if bias is None else bias.make(longest).by_distance
    own = None if tiles is None else Tiles(*tiles)
    return lambda q, k, v: attend_biased(q, k, v, packing.cu_seqlens, longest, biases, own)


def attend_by_lengths(packing: Packing, bias: Bias | None) -> Compute:
    """Return attention of one length after another."""
    biases = None if bias is None else bias.make(packing.longest)
    return lambda q, k, v: attend_by_length(q, k, v, packing, biases)


def attend_by_flash(packing: Packing, bias: Bias | None) -> Compute:
    """Return attention by PyTorch's own FlashAttention; with ALiBi, by its argument for slopes.

    Raises RuntimeError if the operator has other arguments in this version of PyTorch.
    """
    slopes = None if bias is None else bias.slopes
    operator = torch.ops.aten._flash_attention_forward
    names = [argument.name for argument in operator.default._schema.arguments]
    options: dict[str, Any] | None = find_options()
    if options is None or (slopes is not None and "alibi_slopes" not in names):
        raise RuntimeError(f"the operator takes no such arguments: it has {names}")
    if slopes is not None:
        options = options | {"alibi_slopes": slopes}
    where = (packing.cu_seqlens, packing.cu_seqlens, packing.longest, packing.longest)
    return lambda *qkv: operator(*qkv, *where, 0.0, False, False, scale=1.0, **options)[0]
