"""Runs packed batches through a model, and pools their rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqembed.batches import PackedBatch
from seqembed.errors import NonFiniteError


@dataclass(frozen=True, eq=False)
class BatchRows:
    """`rows` (B, D) float32, row i belonging to `positions[i]`; `tokens` went into them."""

    positions: NDArray[np.int64]
    rows: NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, eq=False)
class _Pending:
    batch: PackedBatch
    rows: Tensor
    done: torch.cuda.Event | None


def pool_mean(rows: Tensor, bounds: list[int], count: int) -> Tensor:
    """Mean over the residues of the first `count` sequences, BOS and EOS left out.

    rows: (T, D); bounds: the sequences' limits in it. Returns (count, D) float32, each row a
    function of its own sequence's rows alone.
    """
    pooled = rows.new_empty((count, rows.shape[1]), dtype=torch.float32)
    for number in range(count):
        inner = rows[bounds[number] + 1 : bounds[number + 1] - 1]
        torch.mean(inner, dim=0, dtype=torch.float32, out=pooled[number])
    return pooled


class AsyncInferenceRunner:
    """Yields the pooled rows of batches, in order.

    On a GPU the next batch is queued before the last one's rows are waited for: copies run beside
    the computation, and the GPU does not wait for Python. On a CPU it is a plain loop.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model, self._device = model, device
        cuda = device.type == "cuda"
        self._copies = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._depth = 2 if self._copies else 1

    def run(self, batches: Iterable[PackedBatch]) -> Iterator[BatchRows]:
        """Compute `batches`; raises NonFiniteError for a batch with a NaN or an infinity."""
        pending: deque[_Pending] = deque()
        for batch in batches:
            pending.append(self._submit(batch))
            if len(pending) == self._depth:
                yield _collect(pending.popleft())
        while pending:
            yield _collect(pending.popleft())

    @torch.inference_mode()
    def _submit(self, batch: PackedBatch) -> _Pending:
        tokens, cu_seqlens = self._to_device(batch.tokens), self._to_device(batch.cu_seqlens)
        if self._copies:
            torch.cuda.current_stream(self._device).wait_stream(self._copies)
            # The allocator must not give their memory away while the computation reads them.
            for tensor in (tokens, cu_seqlens):
                tensor.record_stream(torch.cuda.current_stream(self._device))
        rows = self._model(tokens, cu_seqlens)
        pooled = pool_mean(rows, batch.cu_seqlens.tolist(), len(batch.positions))
        return self._to_host(batch, pooled)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if not self._copies:
            return tensor
        with torch.cuda.stream(self._copies):
            return tensor.to(self._device, non_blocking=True)

    def _to_host(self, batch: PackedBatch, pooled: Tensor) -> _Pending:
        if not self._copies:
            return _Pending(batch, pooled, None)
        host = torch.empty(pooled.shape, dtype=pooled.dtype, pin_memory=True)
        host.copy_(pooled, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))
        return _Pending(batch, host, done)


def _collect(pending: _Pending) -> BatchRows:
    if pending.done:
        pending.done.synchronize()
    rows = pending.rows.numpy()
    if not np.isfinite(rows).all():
        raise NonFiniteError(pending.batch.positions.tolist())
    return BatchRows(pending.batch.positions, rows, int(pending.batch.cu_seqlens[len(rows)]))
