"""Runs packed batches through a model: pooled rows, and token rows where they are asked for.

A batch that fails is narrowed down (trials.py); what is not finite is computed again in fp32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqembed.flags import FP32_RETRY
from seqembed.inference.batches import PackedBatch
from seqembed.inference.failure_tracker import FailureTracker
from seqembed.inference.memory import free_memory, is_out_of_memory
from seqembed.inference.pooling import WindowPool, pool, pooled_span
from seqembed.inference.streams import Rows, open_streams
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.encoder import Encoder
from seqembed.settings.request import Pooling, Storage

Result = TypeVar("Result")

# A batch that takes longer is waited for in steps of so many seconds.
WAIT_SECONDS = 0.2
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
class _Step:
    """A batch on its way. alone: what it fails of is its own."""

    batch: PackedBatch
    spans: list[tuple[int, int]]
    alone: bool
    rows: Future[Rows]


class AsyncInferenceRunner:
    """Yields the rows of batches, in order.

    The next batches are read and submitted while the first is computed (streams.py).

    trials: told of every step, and asked what to do where one fails. load_fp32: gives the model in
    fp32, asked once, and only where values are not finite. token_budget: a larger batch is computed
    alone, with all that the device has. streams, threads: of the CPU.
    """

    def __init__(
        self,
        model: Encoder,
        device: torch.device,
        outputs: Outputs,
        trials: FailureTracker,
        load_fp32: Callable[[], Encoder],
        *,
        token_budget: int,
        streams: int,
        threads: int,
    ) -> None:
        self._model, self._device, self._outputs = model, device, outputs
        self._tracker, self._load_fp32 = trials, cache(load_fp32)
        self._token_budget = token_budget
        self._streams = open_streams(device, streams, threads, model.even_threads)
        self._pending: deque[_Step] = deque()
        self._aside = 0
        self._stopped: Callable[[], bool] = lambda: False
        self._retried: set[int] = set()
        self._windows = WindowPool(outputs.pooling)
        self._dtype = {"float32": torch.float32, "float16": torch.float16}[outputs.storage]

    @property
    def busy(self) -> bool:
        """Whether any batch is on its way, or its rows are kept aside."""
        return bool(self._pending) or self._aside > 0

    @property
    def _leaves(self) -> bool:
        """Whether nothing more is begun. What is kept aside is waited for, and all before it: it
        may end a sequence, of which a part would be missing.
        """
        return self._stopped() and not self._aside

    def run(
        self, batches: Iterable[PackedBatch], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[BatchRows]:
        """Compute `batches`, but for the sequences that fail.

        Where a batch takes long, what is yielded meanwhile is empty. stopped: once it is true, none
        is begun any more. Raises NotTheSequencesError or NonFiniteError where sequence after
        sequence fails.
        """
        self._stopped = stopped
        try:
            for batch in takewhile(lambda _: not stopped(), batches):
                yield from self._run(batch)
            yield from self._make_room(1)
        finally:
            self._pending.clear()
            self._streams.close()

    def _run(self, batch: PackedBatch, *, again: bool = False) -> Iterator[BatchRows]:
        """Submit a batch, or what it is cut into; again: each part alone."""
        todo = deque([batch])
        while todo:
            # Before the batch is cut: what is learnt meanwhile may cut it smaller.
            alone = again or self._stands_alone(todo[0])
            yield from self._make_room(1 if alone else self._streams.depth)
            # What comes before it may have been let go of by now.
            if self._leaves:
                return
            wanted = self._wanted(todo.popleft())
            if wanted is None:
                continue
            part, *others = wanted.cut(self._tracker.token_limit)
            todo.extendleft(reversed(others))
            yield from self._submit_or_narrow(part, alone or self._stands_alone(part))

    def _stands_alone(self, batch: PackedBatch) -> bool:
        """Whether nothing else may be on its way: it may end the process, or fill the memory."""
        scarce = self._tracker.token_limit is not None and self._streams.concurrent
        large = batch.size > self._token_budget
        return scarce or large or self._tracker.is_suspect(batch)

    def _make_room(self, depth: int) -> Iterator[BatchRows]:
        """Wait until fewer than so many batches are on their way."""
        while len(self._pending) >= depth:
            if wait([self._pending[0].rows], WAIT_SECONDS).done:
                yield from self._collect()
            else:
                yield _nothing(given_up=[])
            if self._leaves:
                self._forget_waiting()

    def _forget_waiting(self) -> None:
        """Let go of the batches on their way that are not begun: the last ones."""
        while self._pending and self._pending[-1].rows.cancel():
            self._pending.pop()

    def _submit_or_narrow(self, batch: PackedBatch, alone: bool) -> Iterator[BatchRows]:
        by_itself = alone or not self._streams.concurrent
        self._tracker.note_in_flight([step.batch for step in self._pending] + [batch])
        step = _attempt(lambda: self._submit(batch, self._model, by_itself))
        if isinstance(step, Exception):
            yield from self._make_room(1)
            yield from self._narrow(batch, step, by_itself)
            return
        self._pending.append(step)
        if alone:
            # What comes next may end the process: these rows are yielded before it.
            yield from self._make_room(1)

    def _submit(self, batch: PackedBatch, model: nn.Module, alone: bool) -> _Step:
        how = self._outputs
        spans = [pooled_span(piece, how.pooling, how.pools_specials) for piece in batch.pieces]
        compute = partial(self._compute, model, spans)
        return _Step(batch, spans, alone, self._streams.submit(batch, compute, alone=alone))

    @torch.inference_mode()
    def _compute(
        self, model: nn.Module, spans: list[tuple[int, int]], tokens: Tensor, packing: Packing
    ) -> Rows:
        rows = model(tokens, packing)
        pooled = pool(rows, spans, self._outputs.pooling)
        return pooled, rows.to(self._dtype) if self._outputs.per_residue else None

    def _collect(self) -> Iterator[BatchRows]:
        """The rows of the oldest batch on its way, or of what it is narrowed down to."""
        step = self._pending.popleft()
        arrived = _attempt(lambda: _arrive(step))
        if isinstance(arrived, Exception):
            yield from self._narrow(step.batch, arrived, step.alone)
            return
        self._tracker.note_in_flight([others.batch for others in self._pending])
        yield self._finish(step, *arrived)

    def _narrow(self, batch: PackedBatch, error: Exception, alone: bool) -> Iterator[BatchRows]:
        """Try what a batch that raised `error` is narrowed down to, each alone."""
        # What is on its way holds memory; its rows come after these.
        later, self._pending = self._pending, deque()
        self._aside += len(later)
        for step in later:
            _attempt(step.rows.result)
        free_memory(self._device)
        narrower = self._tracker.handle_failure(batch, error, is_out_of_memory(error), alone=alone)
        yield _nothing(given_up=[] if narrower else batch.positions)
        for part in narrower:
            yield from self._run(part, again=True)
        self._pending.extend(later)
        self._aside -= len(later)

    def _wanted(self, batch: PackedBatch) -> PackedBatch | None:
        """The batch without the sequences that are given up."""
        given_up = self._tracker.given_up
        numbers = [n for n, piece in enumerate(batch.pieces) if piece.position not in given_up]
        if len(numbers) == len(batch.pieces):
            return batch
        return batch.select(numbers) if numbers else None

    def _finish(self, step: _Step, pooled: NDArray[Any], residues: list[NDArray[Any]]) -> BatchRows:
        """What is whole after a step."""
        pieces, given_up = step.batch.pieces, self._tracker.given_up
        self._mend(step.batch, pooled, residues)
        kept = [n for n, piece in enumerate(pieces) if piece.position not in given_up]
        positions, rows = self._windows.add(
            [pieces[n] for n in kept], [step.spans[n] for n in kept], pooled[kept]
        )
        positions, rows = self._store(positions, rows)
        self._tracker.record_success(positions)
        return BatchRows(
            positions,
            rows,
            self._flags(positions),
            residues=[
                (pieces[n].position, residues[n])
                for n in kept
                if residues and pieces[n].position not in given_up
            ],
            given_up=[position for position in step.batch.positions if position in given_up],
            tokens=step.batch.size,
        )

    def _mend(self, batch: PackedBatch, pooled: Any, residues: list[NDArray[Any]]) -> None:
        """Compute in fp32, each alone, the windows that are not finite; refuse what stays so.

        The rows of the others stand: none depends on its neighbours.
        """
        finite = [_are_finite(pooled, residues, number) for number in range(len(batch.pieces))]
        for number in (n for n, is_finite in enumerate(finite) if not is_finite):
            position = batch.pieces[number].position
            if position in self._tracker.given_up:
                continue
            again = _arrive(self._submit(batch.select([number]), self._load_fp32(), alone=False))
            pooled[number] = again[0][0]
            residues[number : number + 1] = again[1]
            self._retried.add(position)
            if not _are_finite(pooled, residues, number):
                self._tracker.quarantine(position, NOT_FINITE, in_doubt=not any(finite))

    def _store(self, positions: Any, rows: Any) -> tuple[Any, Any]:
        """The (n, D) rows in their storage's dtype, without those that it cannot hold."""
        with np.errstate(over="ignore"):  # an infinity is told of just below
            rows = rows.astype(self._outputs.storage)
        whole = np.isfinite(rows).all(1)
        for position in positions[~whole].tolist():
            self._tracker.quarantine(position, TOO_LARGE, in_doubt=not whole.any())
        return positions[whole], rows[whole]

    def _flags(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        retried = [position in self._retried for position in positions.tolist()]
        return np.where(retried, FP32_RETRY, 0).astype(np.uint8)


def _nothing(given_up: list[int]) -> BatchRows:
    none = np.empty(0, np.int64), np.empty((0, 0), np.float32), np.empty(0, np.uint8)
    return BatchRows(*none, residues=[], given_up=given_up, tokens=0)


def _attempt(compute: Callable[[], Result]) -> Result | Exception:
    """What `compute` returns or, if it can be gone on from, what it raises."""
    try:
        return compute()
    except torch.AcceleratorError:
        # The GPU is of no more use to this process.
        raise
    except Exception as error:  # noqa: BLE001 (whatever one sequence makes a model raise)
        # Its frames would hold the memory of the step.
        return error.with_traceback(None)


def _arrive(step: _Step) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Wait for a batch: (B, D) pooled rows, and each piece's own token rows, or none at all."""
    pooled, residues = step.rows.result()
    if residues is None:
        return pooled.numpy(), []
    rows = residues.numpy()
    return pooled.numpy(), [rows[piece.start : piece.stop] for piece in step.batch.pieces]


def _are_finite(pooled: NDArray[Any], residues: list[NDArray[Any]], number: int) -> bool:
    values = [pooled[number], *residues[number : number + 1]]
    return all(bool(np.isfinite(part).all()) for part in values)
