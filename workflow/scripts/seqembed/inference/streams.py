"""Compute batches on the threads of a CPU, or on a GPU.

CpuStreams and CudaStream have the same members. depth: how many batches the caller submits before
waiting for the rows of the first. concurrent: whether several batches are computed at the same
time, each in its own memory. submit: begins to compute a batch; alone: no other batch is submitted.
An error in the computation is raised by `submit`, or by the returned future.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from seqembed.inference.batches import PackedBatch
from seqembed.machine.processor import read_processor
from seqembed.models.encoders.attention import Packing

# Pooled rows, (B, D) float32, and token rows, (T, D), or None if they are not asked for.
Rows = tuple[Tensor, Tensor | None]
# Takes a batch's tokens, (T,) int64, and packing; returns the batch's rows; all on the device.
Compute = Callable[[Tensor, Packing], Rows]


def keep_products_equal(environ: MutableMapping[str, str]) -> None:
    """Set variables in `environ` that keep matrix products exact: MKL_CBWR, NVIDIA_TF32_OVERRIDE.

    MKL then computes the same bits with any number of threads; MKL_CBWR is set on Intel's
    processors only, and a value that the user set stays. CUDA then never rounds fp32 values to
    TF32, whatever the user or PyTorch set. Each library reads its variable once: call this function
    before the first product.
    """
    environ["NVIDIA_TF32_OVERRIDE"] = "0"
    # PyTorch's own switch, which TORCH_ALLOW_TF32_CUBLAS_OVERRIDE turns on.
    torch.set_float32_matmul_precision("highest")
    # PyTorch multiplies with Intel's MKL. MKL divides a small batch's product among threads in
    # several ways, which give different last bits. In strict mode MKL gives the bits of one thread
    # (measured; "Obtaining Numerically Reproducible Results", oneMKL developer guide).
    if "GenuineIntel" in read_processor("vendor_id"):
        environ.setdefault("MKL_CBWR", "AUTO,STRICT")


class CpuStreams:
    """Computes `streams` batches at once on a CPU, each on an equal share of `threads`.

    Threads that share one batch wait for each other at every step of a model, so several batches at
    once are faster. Up to `streams` more batches wait. A batch that is submitted alone gets all
    `threads`. even_threads: Encoder.even_threads; a batch gets no more threads than this returns.
    """

    def __init__(self, streams: int, threads: int, even_threads: Callable[[int, int], int]) -> None:
        # If two threads at once make a process's first call of MKL's vector functions, one of them
        # may get cosines that are wrong by 1e-4 (measured: in 2 of 60 processes).
        torch.ones(64).cos().sin().exp()
        self._threads, self._share = threads, max(1, threads // streams)
        self._even_threads = even_threads
        self.concurrent = streams > 1
        # A single stream computes every batch alone: no other batch may be submitted.
        self.depth = 2 * streams if self.concurrent else 1
        # PyTorch fixes a Python thread's number of threads when that thread first asks for it, from
        # what other Python threads have set. So each asks at its start, before any sets a number.
        settle = torch.get_num_threads
        self._shared = ThreadPoolExecutor(streams, "stream", settle)
        # A Python thread keeps the threads with which it computed: one Python thread may have all.
        self._whole = ThreadPoolExecutor(1, "whole", settle)

    def submit(self, batch: PackedBatch, compute: Compute, *, alone: bool) -> Future[Rows]:
        """Begin to compute a batch. alone: no other batch is submitted, so it gets all threads."""
        pool, threads = (self._whole, self._threads) if alone else (self._shared, self._share)
        even = self._even_threads(batch.packing.bounds[-1], threads)
        return pool.submit(_compute, batch, compute, even)

    def close(self) -> None:
        """Cancel the batches that have not begun, and wait for the batches that have."""
        for pool in (self._shared, self._whole):
            pool.shutdown(cancel_futures=True)


def _compute(batch: PackedBatch, compute: Compute, threads: int) -> Rows:
    # PyTorch keeps this number for each Python thread.
    torch.set_num_threads(threads)
    return compute(batch.tokens, batch.packing)


class CudaStream:
    """Computes batches on a GPU: queues the next batch before the rows of the last one arrive.

    All is queued on one stream, whose order protects the memory of a batch until the GPU has
    computed it. device: of type "cuda".
    """

    depth, concurrent = 2, False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waiting = ThreadPoolExecutor(1, "gpu")

    def submit(self, batch: PackedBatch, compute: Compute, *, alone: bool) -> Future[Rows]:
        """Queue a batch; the future's rows are in the CPU's memory. `alone` changes nothing."""
        # The loader has pinned most batches; a copy from other memory would wait for the GPU.
        pinned = batch.pin_memory()
        tokens = pinned.tokens.to(self._device, non_blocking=True)
        packing = pinned.packing.to(self._device, non_blocking=True)
        pooled, residues = compute(tokens, packing)
        rows = _to_host(pooled), None if residues is None else _to_host(residues)
        # Waiting for it leaves the core to others.
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))

        def wait() -> Rows:
            done.synchronize()
            return rows

        return self._waiting.submit(wait)

    def close(self) -> None:
        """Wait for the batches that the GPU computes."""
        self._waiting.shutdown(cancel_futures=True)


def _to_host(rows: Tensor) -> Tensor:
    host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    return host.copy_(rows, non_blocking=True)
