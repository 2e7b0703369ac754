"""Computes batches on the threads of a CPU, or on a GPU while it copies other batches.

Both kinds of streams have the same members. depth: how many batches to submit before waiting for
the rows of the first. concurrent: several batches are computed at the same time, each in its own
memory. submit: begins a batch; the computation's errors are raised there or by the future; alone:
no other batch is submitted. close: cancels batches that have not begun, and waits for the others.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from seqembed.inference.batches import PackedBatch
from seqembed.models.encoders.attention import Packing

# (B, D) float32 pooled rows, and the (T, D) token rows if they are wanted, else None.
Rows = tuple[Tensor, Tensor | None]
# From a batch's tokens and packing, both on the device, to the batch's rows on the device.
Compute = Callable[[Tensor, Packing], Rows]


def keep_products_equal(
    environ: MutableMapping[str, str], cpuinfo: Path = Path("/proc/cpuinfo")
) -> None:
    """Ask MKL for its strict mode, on Intel's processors; the user's own value wins.

    MKL reads the variable once: call this before the first matrix product.
    """
    # Intel's MKL, which PyTorch multiplies with, divides the product of a small batch among threads
    # in several ways, each with other last bits. MKL's strict mode does not ("Obtaining Numerically
    # Reproducible Results", oneMKL developer guide), and gives the bits of one thread (measured).
    if cpuinfo.exists() and "GenuineIntel" in cpuinfo.read_text(encoding="utf-8"):
        environ.setdefault("MKL_CBWR", "AUTO,STRICT")


class CpuStreams:
    """Computes `streams` batches at once, each on its share of the threads; a lone one on all.

    Threads that share one batch wait for each other at every step of a model. As many batches wait
    as are computed. even_threads: Encoder.even_threads, the most threads, of those allowed, that
    give the bits of one thread for a batch of so many rows.
    """

    def __init__(self, streams: int, threads: int, even_threads: Callable[[int, int], int]) -> None:
        self._threads, self._share = threads, max(1, threads // streams)
        self._even_threads = even_threads
        self.concurrent = streams > 1
        # A single stream's batch is always alone.
        self.depth = 2 * streams if self.concurrent else 1
        # PyTorch fixes how many threads a Python thread uses when that thread first asks, from what
        # any other has set by then: each asks at its start, before others set theirs.
        settle = torch.get_num_threads
        self._shared = ThreadPoolExecutor(streams, "stream", settle)
        # A Python thread that computes on several threads keeps a team of them: one team is enough.
        self._whole = ThreadPoolExecutor(1, "whole", settle)

    def submit(self, batch: PackedBatch, compute: Compute, *, alone: bool) -> Future[Rows]:
        pool, threads = (self._whole, self._threads) if alone else (self._shared, self._share)
        even = self._even_threads(batch.packing.bounds[-1], threads)
        return pool.submit(_compute, batch, compute, even)

    def close(self) -> None:
        for pool in (self._shared, self._whole):
            pool.shutdown(cancel_futures=True)


def _compute(batch: PackedBatch, compute: Compute, threads: int) -> Rows:
    # PyTorch keeps this number per Python thread.
    torch.set_num_threads(threads)
    return compute(batch.tokens, batch.packing)


class CudaStream:
    """Queues the next batch on a GPU before waiting for the rows of the last one.

    Copies to the GPU run while the GPU computes, and the GPU does not wait for Python.
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
        # The allocator must not reuse the tensors' memory while the computation reads them.
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
