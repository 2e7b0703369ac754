"""Computes batches on the threads of a CPU, or on a GPU while it copies others.

depth: how many batches to submit before waiting for the rows of the first. concurrent: batches are
computed at the same time, each in memory of its own. `submit`, or the future that it returns,
raises what the computation raises; alone: no other batch is submitted. `close` cancels what was not
begun, and waits for what was.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from seqembed.inference.batches import PackedBatch
from seqembed.models.encoders.attention import Packing

# (B, D) float32 pooled rows, and the (T, D) token rows where they are wanted.
Rows = tuple[Tensor, Tensor | None]
# From a batch's tokens and its packing, both on the device, to its rows there.
Compute = Callable[[Tensor, Packing], Rows]


class CpuStreams:
    """Computes `streams` batches at once, each on its share of the threads; a lone one has all.

    Threads that share one batch wait for each other at every step of a model. As many batches wait
    as are computed. even_threads: the most threads for a number of rows that give the bits of one
    thread (Encoder.even_threads).
    """

    def __init__(self, streams: int, threads: int, even_threads: Callable[[int, int], int]) -> None:
        self._threads, self._share = threads, max(1, threads // streams)
        self._even_threads = even_threads
        self.concurrent = streams > 1
        # A single stream's batch is always alone.
        self.depth = 2 * streams if self.concurrent else 1
        # PyTorch settles a thread's number of threads at its first use, by what any other thread
        # has set by then; settled before, each keeps its own.
        settle = torch.get_num_threads
        self._shared = ThreadPoolExecutor(streams, "stream", settle)
        # A thread that computes on several threads keeps a team of them: one such is enough.
        self._whole = ThreadPoolExecutor(1, "whole", settle)

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
    """Queues the next batch on a GPU before it waits for the rows of the last one.

    Copies to the GPU run while it computes, and it does not wait for Python.
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
        # The allocator must not reuse their memory while the computation reads them.
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
) -> CpuStreams | CudaStream:
    """The streams of this device; streams, threads and even_threads are CpuStreams's."""
    if device.type == "cuda":
        return CudaStream(device)
    return CpuStreams(streams, threads, even_threads)
