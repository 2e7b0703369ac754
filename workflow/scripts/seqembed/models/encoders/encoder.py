"""The base class of encoders of packed batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from seqembed.errors import ModelError
from seqembed.kernels.choice import Steps, load_steps
from seqembed.kernels.names import PLAIN
from seqembed.models.architectures import Architecture, block_rows
from seqembed.models.encoders.attention import Attend, Biases, Packing, choose_attention

# On a CPU, at most this many rows go through the feed-forward part at once, so that values between
# the two products stay in the cache. Fewer than some tens of rows would take other code paths
# (measured).
CPU_FFN_ROWS = 1024
# They have at most this many values of ffn_width. glibc does not keep blocks of over 64 MiB for a
# thread, and the system would clear their pages for each layer anew.
CPU_FFN_VALUES = CPU_FFN_ROWS * 5120
# PyTorch gives each thread at least this many values, and computes an activation on two vectors of
# together at most this many bytes at a time. A shorter rest of values gets other last bits
# (aten/src/ATen/Parallel.h and aten/src/ATen/native/cpu/Loops.h of PyTorch).
CPU_VALUES_A_THREAD, CPU_VECTORS_BYTES = 32_768, 128


class Encoder(nn.Module):
    """A model up to `layer`: 0 is the embedding layer, i the i-th transformer layer.

    `forward(tokens, packing)` takes (T,) int64 token ids, special tokens included, and returns the
    rows of that layer, (T, width) in the weights' dtype or float32. Buffers stay float32 when
    weights are cast. kernels: the steps to take, PLAIN or FUSED of kernels/choice.py. Raises
    ModelError if there is no such layer.
    """

    def __init__(self, architecture: Architecture, layer: int) -> None:
        super().__init__()
        if not 0 <= layer <= architecture.layers:
            raise ModelError(f"layer {layer} is not one of 0 to {architecture.layers}")
        self.architecture, self.layer = architecture, layer
        self.kernels = PLAIN

    @property
    def steps(self) -> Steps:
        """The module of the steps that `kernels` names."""
        return load_steps(self.kernels)

    def biases(self, longest: int) -> Biases | None:
        """Return what attention adds to its scores; None: nothing. A family overrides this.

        longest: the number of tokens of the longest sequence of a batch.
        """
        return None

    def attend_over(self, packing: Packing) -> Attend:
        """Return attention over a batch."""
        weight, biases = next(self.parameters()), self.biases(packing.longest)
        kind = (weight.dtype, self.architecture.head_dim, biases is not None)
        attention = choose_attention(weight.device, *kind, self.kernels)

        def attend(qkv: Tensor) -> Tensor:
            q, k, v = qkv.unbind(1)
            return attention(q, k, v, packing, biases)

        return attend

    def even_threads(self, rows: int, threads: int) -> int:
        """Return the most threads, up to `threads`, that give rows the same bits as one thread.

        With that number of threads, each one computes a multiple of CPU_VECTORS_BYTES of an
        activation. rows: the tokens of the batch, including those that fill up a small batch.
        """
        width = self.architecture.ffn_width
        part = rows // max(1, rows // cpu_ffn_rows(width)) * width
        whole = CPU_VECTORS_BYTES // next(self.parameters()).itemsize
        even = (n for n in range(threads, 1, -1) if width % (n * whole) == 0)
        return next((n for n in even if part >= n * CPU_VALUES_A_THREAD), 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # .half() would round the buffers, and distant tokens would get wrong angles or biases.
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, moved in self.named_buffers(recurse=False):
            self._buffers[name] = exact[name].to(moved.device)
        return self


def in_chunks(part: Callable[[Tensor], Tensor], x: Tensor, ffn_width: int) -> Tensor:
    """Return part(x); part: a feed-forward part, which takes some rows at a time.

    x: (T, width), of the model's width. ffn_width: the model's.
    """
    if x.device.type != "cpu":
        return in_blocks(part, x, x.shape[1])
    chunks = len(x) // cpu_ffn_rows(ffn_width)
    if chunks < 2:
        return part(x)
    return torch.cat([part(rows) for rows in x.tensor_split(chunks)])


def cpu_ffn_rows(ffn_width: int) -> int:
    """Return how many rows, or up to twice as many, go through the feed-forward part at once."""
    return min(CPU_FFN_ROWS, CPU_FFN_VALUES // ffn_width)


def in_blocks(part: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """Return part(x); part: a matrix product, which on a GPU takes a block of rows at a time.

    x: (T, ...), where T is a multiple of block_rows() on a GPU. width: the model's.
    """
    rows = block_rows(width, x.itemsize)
    if x.device.type == "cpu" or len(x) == rows:
        return part(x)
    return torch.cat([part(block) for block in torch.split(x, rows)])
