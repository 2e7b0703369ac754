"""Runs packed batches through a model: pooled rows, and token rows where they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqembed.batches import PackedBatch
from seqembed.errors import NonFiniteError
from seqembed.models.attention import Packing
from seqembed.pooling import WindowPool, pool, pooled_span
from seqembed.request import Pooling, Storage


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What is wanted of the token rows.

    pools_specials: the special tokens around a sequence count in its mean and its maximum.
    """

    pooling: Pooling
    pools_specials: bool
    per_residue: bool
    storage: Storage


@dataclass(frozen=True, eq=False)
class BatchRows:
    """`rows` (n, D) of the sequences that are whole, row i belonging to `positions[i]`.

    residues: (position, (m, D) rows of its next m tokens), in order; of a sequence in many windows
    they come before it is whole. tokens: how many went in, the dummy's left out.
    """

    positions: NDArray[np.int64]
    rows: NDArray[np.floating]
    residues: list[tuple[int, NDArray[np.floating]]]
    tokens: int


@dataclass(frozen=True, eq=False)
class _Pending:
    """A batch whose rows are on their way: (B, D) pooled, and (T, D) token rows or none."""

    batch: PackedBatch
    spans: list[tuple[int, int]]
    pooled: Tensor
    residues: Tensor | None
    done: torch.cuda.Event | None


class AsyncInferenceRunner:
    """Yields the rows of batches, in order.

    On a GPU the next batch is queued before the last one's rows are waited for: copies run beside
    the computation, and the GPU does not wait for Python. On a CPU it is a plain loop.
    """

    def __init__(self, model: nn.Module, device: torch.device, outputs: Outputs) -> None:
        self._model, self._device, self._outputs = model, device, outputs
        cuda = device.type == "cuda"
        self._copies = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._depth = 2 if self._copies else 1
        self._windows = WindowPool(outputs.pooling)
        self._dtype = {"float32": torch.float32, "float16": torch.float16}[outputs.storage]

    def run(self, batches: Iterable[PackedBatch]) -> Iterator[BatchRows]:
        """Compute `batches`; raises NonFiniteError for a batch with a NaN or an infinity."""
        pending: deque[_Pending] = deque()
        for batch in batches:
            pending.append(self._submit(batch))
            if len(pending) == self._depth:
                yield self._collect(pending.popleft())
        while pending:
            yield self._collect(pending.popleft())

    @torch.inference_mode()
    def _submit(self, batch: PackedBatch) -> _Pending:
        tokens = self._to_device(batch.tokens)
        cu_seqlens = self._to_device(batch.packing.cu_seqlens)
        if self._copies:
            torch.cuda.current_stream(self._device).wait_stream(self._copies)
            # The allocator must not give their memory away while the computation reads them.
            for tensor in (tokens, cu_seqlens):
                tensor.record_stream(torch.cuda.current_stream(self._device))
        rows = self._model(tokens, Packing(batch.packing.bounds, cu_seqlens))
        how = self._outputs
        spans = [pooled_span(piece, how.pooling, how.pools_specials) for piece in batch.pieces]
        pooled = self._to_host(pool(rows, spans, how.pooling))
        residues = self._to_host(rows.to(self._dtype)) if how.per_residue else None
        return _Pending(batch, spans, pooled, residues, self._mark())

    def _to_device(self, tensor: Tensor) -> Tensor:
        if not self._copies:
            return tensor
        with torch.cuda.stream(self._copies):
            return tensor.to(self._device, non_blocking=True)

    def _to_host(self, rows: Tensor) -> Tensor:
        if not self._copies:
            return rows
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        return host.copy_(rows, non_blocking=True)

    def _mark(self) -> torch.cuda.Event | None:
        """What tells when all that was queued so far is done."""
        if not self._copies:
            return None
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))
        return done

    def _collect(self, pending: _Pending) -> BatchRows:
        if pending.done:
            pending.done.synchronize()
        batch = pending.batch
        pooled, residues = pending.pooled.numpy(), _residues(pending)
        positions, rows = self._windows.add(batch.pieces, pending.spans, pooled)
        with np.errstate(over="ignore"):  # an infinity is told of just below
            rows = rows.astype(self._outputs.storage)
        for values in (pooled, rows, *(part for _, part in residues)):
            if not np.isfinite(values).all():
                raise NonFiniteError(batch.positions)
        return BatchRows(positions, rows, residues, batch.packing.bounds[len(batch.pieces)])


def _residues(pending: _Pending) -> list[tuple[int, NDArray[Any]]]:
    """Each piece's own token rows."""
    if pending.residues is None:
        return []
    rows = pending.residues.numpy()
    return [(piece.position, rows[piece.start : piece.stop]) for piece in pending.batch.pieces]
