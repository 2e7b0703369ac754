"""Where batches are computed: on the threads of a CPU, or on a GPU beside its copies."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from seqembed.inference.batches import PackedBatch
from seqembed.models.encoders.attention import Packing

# (B, D) float32 pooled rows, and the (T, D) token rows where they are wanted.
Rows = tuple[Tensor, Tensor | None]
# From a batch's tokens and its packing, both on the device, to its rows there.
Compute = Callable[[Tensor, Packing], Rows]


class Streams(Protocol):
    """depth: how many batches are worth submitting before the first one's rows are waited for.

    beside: whether they are computed beside each other, each in memory of its own.
    """

    depth: int
    concurrent: bool

    def submit(self, batch: PackedBatch, compute: Compute, *, alone: bool) -> Future[Rows]:
        """Have a batch computed, in its turn; its rows will be in the host's memory.

        This, or the future, raises what the computation raises. alone: nothing else is on its way.
        """

    def close(self) -> None:
        """Let go of what was not begun, and wait for what was."""


class CpuStreams:
    """So many batches at once, each on its own share of the threads; one that is alone has all.

    Threads that share one batch wait for each other at every step of a model. As many batches wait
    as are computed. even_threads: of so many rows and threads, how many give the bits that one
    gives (Encoder.even_threads).
    """

    def __init__(self, streams: int, threads: int, even_threads: Callable[[int, int], int]) -> None:
        self._threads, self._share = threads, max(1, threads // streams)
        self._even_threads = even_threads
        self.concurrent = streams > 1
        # A single stream's batch is always alone: what it fails of is its own.
        self.depth = 2 * streams if self.concurrent else 1
        # A thread asks PyTorch for its number of threads when it first computes, and would get what
        # another one set for itself by then; asked before, it keeps its own.
        first = torch.get_num_threads
        self._shared = ThreadPoolExecutor(streams, "stream", first)
        # Each thread that computes on several has its own team of them: one is enough.
        self._whole = ThreadPoolExecutor(1, "whole", first)

    def submit(self, batch: PackedBatch, compute: Compute, *, alone: bool) -> Future[Rows]:
        pool, threads = (self._whole, self._threads) if alone else (self._shared, self._share)
        even = self._even_threads(batch.packing.bounds[-1], threads)
        return pool.submit(_compute, batch, compute, even)

    def close(self) -> None:
        for pool in (self._shared, self._whole):
            pool.shutdown(cancel_futures=True)


def _compute(batch: PackedBatch, compute: Compute, threads: int) -> Rows:
    # PyTorch keeps this number for each thread.
    torch.set_num_threads(threads)
    return compute(batch.tokens, batch.packing)


class CudaStream:
    """A GPU, on which the next batch is queued before the last one's rows are waited for.

    Copies to it run beside the computation, and it does not wait for Python.
    """

    depth, concurrent = 2, False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waiting = ThreadPoolExecutor(1, "gpu")
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def submit(self, batch: PackedBatch, compute: Compute, *, alone: bool) -> Future[Rows]:
        tokens, cu_seqlens = map(self._to_device, (batch.tokens, batch.packing.cu_seqlens))
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._copies)
        # The allocator must not give their memory away while the computation reads them.
        for tensor in (tokens, cu_seqlens):
            tensor.record_stream(current)
        pooled, residues = compute(tokens, Packing(batch.packing.bounds, cu_seqlens))
        rows = _to_host(pooled), None if residues is None else _to_host(residues)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(current)

        def wait() -> Rows:
            done.synchronize()
            return rows

        return self._waiting.submit(wait)

    def _to_device(self, tensor: Tensor) -> Tensor:
        with torch.cuda.stream(self._copies):
            return tensor.to(self._device, non_blocking=True)

    def close(self) -> None:
        self._waiting.shutdown(cancel_futures=True)


def _to_host(rows: Tensor) -> Tensor:
    host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    return host.copy_(rows, non_blocking=True)


def open_streams(
    device: torch.device, streams: int, threads: int, even_threads: Callable[[int, int], int]
) -> Streams:
    """Those of this device. streams, threads, even_threads: as CpuStreams takes them."""
    if device.type == "cuda":
        return CudaStream(device)
    return CpuStreams(streams, threads, even_threads)
