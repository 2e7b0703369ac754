"""Runs packed batches through a model: pooled rows, and token rows where they are asked for.

A batch that fails is narrowed down (trials.py); what is not finite is computed again in fp32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqembed.batches import PackedBatch
from seqembed.flags import FP32_RETRY
from seqembed.memory import free_memory, is_out_of_memory
from seqembed.models.attention import Packing
from seqembed.pooling import WindowPool, pool, pooled_span
from seqembed.request import Pooling, Storage
from seqembed.trials import Trials

NOT_FINITE = "its values are not finite, in fp32 too"
TOO_LARGE = "its values are too large for float16; `embedding: {storage: float32}` holds them"


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

    flags: (n,) uint8. residues: (position, (m, D) rows of its next m tokens), in order; of a
    sequence in many windows they come before it is whole. given_up: positions of which nothing
    counts, nor what came before. tokens: how many went in, the dummy's left out.
    """

    positions: NDArray[np.int64]
    rows: NDArray[np.floating]
    flags: NDArray[np.uint8]
    residues: list[tuple[int, NDArray[np.floating]]]
    given_up: list[int]
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

    trials: told of every step, and asked what to do where one fails. load_fp32: gives the model in
    fp32, asked once, and only where values are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        outputs: Outputs,
        trials: Trials,
        load_fp32: Callable[[], nn.Module],
    ) -> None:
        self._model, self._device, self._outputs = model, device, outputs
        self._trials, self._load_fp32 = trials, cache(load_fp32)
        self._pending: deque[_Pending] = deque()
        self._retried: set[int] = set()
        cuda = device.type == "cuda"
        self._copies = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._depth = 2 if self._copies else 1
        self._windows = WindowPool(outputs.pooling)
        self._dtype = {"float32": torch.float32, "float16": torch.float16}[outputs.storage]

    def run(self, batches: Iterable[PackedBatch]) -> Iterator[BatchRows]:
        """Compute `batches`, but for the sequences that fail.

        Raises NotTheSequencesError or NonFiniteError where one after the other does.
        """
        for batch in batches:
            todo = deque([batch])
            while todo:
                yield from self._step(todo)
        while self._pending:
            yield self._collect()

    def _step(self, todo: deque[PackedBatch]) -> Iterator[BatchRows]:
        """Submit the first batch of `todo`, or put what it is cut into in its place."""
        batch = self._wanted(todo.popleft())
        if batch is None:
            return
        first, *others = batch.cut(self._trials.token_limit)
        todo.extendleft(reversed(others))
        error = self._try(first)
        if error is None:
            if len(self._pending) == self._depth:
                yield self._collect()
            return
        # What is on its way holds memory.
        while self._pending:
            yield self._collect()
        free_memory(self._device)
        narrower = self._trials.narrow(first, error, is_out_of_memory(error))
        todo.extendleft(reversed(narrower))
        yield _nothing(given_up=[] if narrower else first.positions)

    def _wanted(self, batch: PackedBatch) -> PackedBatch | None:
        """The batch without the sequences that are given up."""
        given_up = self._trials.given_up
        numbers = [n for n, piece in enumerate(batch.pieces) if piece.position not in given_up]
        if len(numbers) == len(batch.pieces):
            return batch
        return batch.select(numbers) if numbers else None

    def _try(self, batch: PackedBatch) -> Exception | None:
        """Submit a batch; return what it raised, if it can be gone on from."""
        self._trials.at_work([pending.batch for pending in self._pending] + [batch])
        try:
            self._pending.append(self._submit(batch, self._model))
        except torch.AcceleratorError:
            # The GPU is of no more use to this process.
            raise
        except Exception as error:  # noqa: BLE001 (whatever one sequence makes a model raise)
            # Its frames would hold the memory of the step.
            return error.with_traceback(None)
        return None

    @torch.inference_mode()
    def _submit(self, batch: PackedBatch, model: nn.Module) -> _Pending:
        tokens = self._to_device(batch.tokens)
        cu_seqlens = self._to_device(batch.packing.cu_seqlens)
        if self._copies:
            torch.cuda.current_stream(self._device).wait_stream(self._copies)
            # The allocator must not give their memory away while the computation reads them.
            for tensor in (tokens, cu_seqlens):
                tensor.record_stream(torch.cuda.current_stream(self._device))
        rows = model(tokens, Packing(batch.packing.bounds, cu_seqlens))
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

    def _collect(self) -> BatchRows:
        """The rows of the oldest batch on its way."""
        pending = self._pending.popleft()
        pooled, residues = _arrive(pending)
        self._trials.at_work([others.batch for others in self._pending])
        pieces, given_up = pending.batch.pieces, self._trials.given_up
        self._mend(pending.batch, pooled, residues)
        kept = [n for n, piece in enumerate(pieces) if piece.position not in given_up]
        positions, rows = self._windows.add(
            [pieces[n] for n in kept], [pending.spans[n] for n in kept], pooled[kept]
        )
        positions, rows = self._store(positions, rows)
        self._trials.passed(positions)
        return BatchRows(
            positions,
            rows,
            self._flags(positions),
            residues=[
                (pieces[n].position, residues[n])
                for n in kept
                if residues and pieces[n].position not in given_up
            ],
            given_up=[position for position in pending.batch.positions if position in given_up],
            tokens=pending.batch.size,
        )

    def _mend(self, batch: PackedBatch, pooled: Any, residues: list[NDArray[Any]]) -> None:
        """Compute in fp32, each alone, the windows that are not finite; refuse what stays so.

        The rows of the others stand: none depends on its neighbours.
        """
        finite = [_are_finite(pooled, residues, number) for number in range(len(batch.pieces))]
        for number in (n for n, is_finite in enumerate(finite) if not is_finite):
            position = batch.pieces[number].position
            if position in self._trials.given_up:
                continue
            again = _arrive(self._submit(batch.select([number]), self._load_fp32()))
            pooled[number] = again[0][0]
            residues[number : number + 1] = again[1]
            self._retried.add(position)
            if not _are_finite(pooled, residues, number):
                self._trials.refuse(position, NOT_FINITE, in_doubt=not any(finite))

    def _store(self, positions: Any, rows: Any) -> tuple[Any, Any]:
        """The (n, D) rows in their storage's dtype, without those that it cannot hold."""
        with np.errstate(over="ignore"):  # an infinity is told of just below
            rows = rows.astype(self._outputs.storage)
        whole = np.isfinite(rows).all(1)
        for position in positions[~whole].tolist():
            self._trials.refuse(position, TOO_LARGE, in_doubt=not whole.any())
        return positions[whole], rows[whole]

    def _flags(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        retried = [position in self._retried for position in positions.tolist()]
        return np.where(retried, FP32_RETRY, 0).astype(np.uint8)


def _nothing(given_up: list[int]) -> BatchRows:
    none = np.empty(0, np.int64), np.empty((0, 0), np.float32), np.empty(0, np.uint8)
    return BatchRows(*none, residues=[], given_up=given_up, tokens=0)


def _arrive(pending: _Pending) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Wait for a batch: (B, D) pooled rows, and each piece's own token rows, or none at all."""
    if pending.done:
        pending.done.synchronize()
    pooled = pending.pooled.numpy()
    if pending.residues is None:
        return pooled, []
    rows = pending.residues.numpy()
    return pooled, [rows[piece.start : piece.stop] for piece in pending.batch.pieces]


def _are_finite(pooled: NDArray[Any], residues: list[NDArray[Any]], number: int) -> bool:
    values = [pooled[number], *residues[number : number + 1]]
    return all(bool(np.isfinite(part).all()) for part in values)
