"""Runs packed batches through a model: pooled rows, and token rows if they are asked for.

The failure tracker decides what is computed in place of a batch that failed. A window whose values
are not finite is computed again in fp32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from seqembed.inference.pooling import WindowPool, pool, pooled_span
from seqembed.inference.streams import CpuStreams, CudaStream, Rows
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.encoder import Encoder
from seqembed.settings.request import Pooling, Storage

Result = TypeVar("Result")

# How often, in seconds, the caller gets control while a batch is being computed.
WAIT_SECONDS = 0.2
NOT_FINITE = "its values are not finite, in fp32 too"
TOO_LARGE = "its values are too large for float16; `embedding: {storage: float32}` holds them"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Which rows are made from a model's token rows.

    pools_specials: mean and maximum include the special tokens around a sequence.
    """

    pooling: Pooling
    pools_specials: bool
    per_residue: bool
    storage: Storage


@dataclass(frozen=True, eq=False)
class BatchRows:
    """Rows of the sequences that a batch completed.

    positions: (n,) int64, the sequences' rows in the shard. rows: (n, D) in the storage's dtype.
    flags: (n,) uint8. residues: pairs of a position and the (m, D) rows of that sequence's next m
    tokens, in order; they may come in batches before the sequence's own row. given_up: positions
    whose rows, earlier ones too, are dropped. tokens: how many were computed, without the dummy's.
    """

    positions: NDArray[np.int64]
    rows: NDArray[np.floating]
    flags: NDArray[np.uint8]
    residues: list[tuple[int, NDArray[np.floating]]]
    given_up: Sequence[int]
    tokens: int


@dataclass(frozen=True, eq=False)
class _Submitted:
    """A batch that waits or is being computed. alone: no other batch can be why it fails."""

    batch: PackedBatch
    spans: list[tuple[int, int]]
    alone: bool
    rows: Future[Rows]


class AsyncInferenceRunner:
    """Computes batches and yields their rows, in order.

    The next batches are read and submitted while the first is computed (streams.py).

    tracker: records every batch, and says what to compute if one fails. load_fp32: returns the
    model in fp32; called once at most, when values are not finite. token_budget: a batch of more
    tokens is computed alone, with all threads. streams, threads: of the CPU, as in CpuStreams.
    """

    def __init__(
        self,
        model: Encoder,
        device: torch.device,
        outputs: Outputs,
        tracker: FailureTracker,
        load_fp32: Callable[[], Encoder],
        *,
        token_budget: int,
        streams: int,
        threads: int,
    ) -> None:
        self._model, self._device, self._outputs = model, device, outputs
        self._tracker, self._load_fp32 = tracker, cache(load_fp32)
        self._token_budget = token_budget
        self._streams: CpuStreams | CudaStream
        if device.type == "cuda":
            self._streams = CudaStream(device)
        else:
            self._streams = CpuStreams(streams, threads, model.even_threads)
        self._submitted: deque[_Submitted] = deque()
        self._stopped: Callable[[], bool] = lambda: False
        self._retried: set[int] = set()
        self._windows = WindowPool(outputs.pooling)
        self._dtype: torch.dtype = getattr(torch, outputs.storage)

    def run(
        self, batches: Iterable[PackedBatch], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[BatchRows]:
        """Compute `batches`, except for the sequences that fail.

        Yields empty results while a batch takes long. Once `stopped()` is true, the batches that
        have begun are finished, and no other begins. Raises NotTheSequencesError or NonFiniteError
        if too many sequences in a row fail.
        """
        self._stopped = stopped
        try:
            for batch in takewhile(lambda _: not stopped(), batches):
                yield from self._run(batch)
            yield from self._make_room(1)
        finally:
            self._submitted.clear()
            self._streams.close()

    def _run(self, batch: PackedBatch, *, alone: bool = False) -> Iterator[BatchRows]:
        """Submit a batch, cut to the token limit, once there is room for it."""
        yield from self._make_room(1 if alone or self._needs_all(batch) else self._streams.depth)
        # What was computed meanwhile may have failed, given up sequences, and lowered the limit.
        if self._stopped() or not (kept := self._kept(batch)):
            return
        wanted = batch if len(kept) == len(batch.windows) else batch.select(kept)
        part, *others = wanted.cut(self._tracker.token_limit)
        yield from self._submit(part, alone or self._needs_all(part))
        for other in others:
            yield from self._run(other, alone=alone)

    def _needs_all(self, batch: PackedBatch) -> bool:
        """Whether a batch must be computed alone: it may end the process, or fill the memory."""
        scarce = self._tracker.token_limit is not None and self._streams.concurrent
        large = batch.size > self._token_budget
        return scarce or large or self._tracker.find_suspect(batch) is not None

    def _kept(self, batch: PackedBatch) -> list[int]:
        """Return the numbers of the windows whose sequences are not given up."""
        given_up = self._tracker.given_up
        return [n for n, window in enumerate(batch.windows) if window.position not in given_up]

    def _make_room(self, depth: int) -> Iterator[BatchRows]:
        """Wait until fewer than `depth` batches are submitted."""
        while len(self._submitted) >= depth:
            if wait([self._submitted[0].rows], WAIT_SECONDS).done:
                yield from self._collect()
            else:
                yield _nothing()
            # The last ones are cancelled first, so that what is computed has no gap.
            while self._stopped() and self._submitted and self._submitted[-1].rows.cancel():
                self._submitted.pop()

    def _submit(self, batch: PackedBatch, alone: bool) -> Iterator[BatchRows]:
        self._tracker.note_in_flight([earlier.batch for earlier in self._submitted] + [batch])
        blamed = alone or not self._streams.concurrent
        submitted = _attempt(lambda: self._begin(batch, self._model, blamed))
        if isinstance(submitted, Exception):
            yield from self._make_room(1)
            yield from self._replace(batch, submitted, blamed)
            return
        self._submitted.append(submitted)
        if alone:
            # The next batch may end the process, so these rows are yielded before it begins.
            yield from self._make_room(1)

    def _begin(self, batch: PackedBatch, model: nn.Module, alone: bool) -> _Submitted:
        wanted = self._outputs
        spans = [pooled_span(w, wanted.pooling, wanted.pools_specials) for w in batch.windows]
        compute = partial(self._compute, model, spans)
        return _Submitted(batch, spans, alone, self._streams.submit(batch, compute, alone=alone))

    @torch.inference_mode()
    def _compute(
        self, model: nn.Module, spans: list[tuple[int, int]], tokens: Tensor, packing: Packing
    ) -> Rows:
        rows = model(tokens, packing)
        pooled = pool(rows, spans, self._outputs.pooling)
        return pooled, rows.to(self._dtype) if self._outputs.per_residue else None

    def _collect(self) -> Iterator[BatchRows]:
        """Yield the rows of the oldest batch, or of the batches computed in its place."""
        oldest = self._submitted.popleft()
        arrived = _attempt(lambda: _arrive(oldest))
        if isinstance(arrived, Exception):
            yield from self._replace(oldest.batch, arrived, oldest.alone)
        else:
            self._tracker.note_in_flight([later.batch for later in self._submitted])
            yield self._finish(oldest, *arrived)

    def _replace(self, batch: PackedBatch, error: Exception, alone: bool) -> Iterator[BatchRows]:
        """Compute what the tracker puts in place of a batch that raised `error`.

        The batches submitted after it are dropped, as they hold memory, and computed again.
        """
        later = [submitted.batch for submitted in self._submitted]
        for submitted in self._submitted:
            if not submitted.rows.cancel():
                _attempt(submitted.rows.result)
        self._submitted.clear()
        if self._device.type == "cuda":
            # Memory that the allocator keeps for reuse cannot join to larger blocks.
            torch.cuda.empty_cache()
        parts = self._tracker.handle_failure(batch, error, alone=alone)
        yield _nothing(given_up=() if parts else batch.positions)
        for part in parts:
            yield from self._run(part, alone=True)
        for following in later:
            yield from self._run(following)

    def _finish(
        self, done: _Submitted, pooled: NDArray[Any], residues: list[NDArray[Any]]
    ) -> BatchRows:
        """Return the rows of the sequences that are complete after a batch."""
        batch, given_up = done.batch, self._tracker.given_up
        self._retry_in_fp32(batch, pooled, residues)
        kept = self._kept(batch)
        windows, spans = [batch.windows[n] for n in kept], [done.spans[n] for n in kept]
        positions, rows = self._store(*self._windows.add(windows, spans, pooled[kept]))
        self._tracker.record_success(positions)
        retried = [position in self._retried for position in positions.tolist()]
        # Storing may have given up sequences, too.
        kept = self._kept(batch) if residues else []
        return BatchRows(
            positions,
            rows,
            flags=np.where(retried, FP32_RETRY, 0).astype(np.uint8),
            residues=[(batch.windows[n].position, residues[n]) for n in kept],
            given_up=[position for position in batch.positions if position in given_up],
            tokens=batch.size,
        )

    def _retry_in_fp32(
        self, batch: PackedBatch, pooled: NDArray[Any], residues: list[NDArray[Any]]
    ) -> None:
        """Compute windows that are not finite again in fp32, each alone; quarantine what stays so.

        The rows of other windows stay: no row depends on its neighbours.
        """
        finite = [_are_finite(pooled, residues, number) for number in range(len(batch.windows))]
        for number, window in enumerate(batch.windows):
            if finite[number] or window.position in self._tracker.given_up:
                continue
            again = _arrive(self._begin(batch.select([number]), self._load_fp32(), alone=False))
            pooled[number] = again[0][0]
            residues[number : number + 1] = again[1]
            self._retried.add(window.position)
            if not _are_finite(pooled, residues, number):
                self._tracker.quarantine(window.position, NOT_FINITE, in_doubt=not any(finite))

    def _store(
        self, positions: NDArray[np.int64], rows: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return (n, D) rows in the storage's dtype, and their positions.

        A sequence whose row is too large for that dtype is quarantined.
        """
        with np.errstate(over="ignore"):  # the next line looks for infinities
            rows = rows.astype(self._outputs.storage)
        finite = np.isfinite(rows).all(1)
        for position in positions[~finite].tolist():
            self._tracker.quarantine(position, TOO_LARGE, in_doubt=not finite.any())
        return positions[finite], rows[finite]


def _nothing(given_up: Sequence[int] = ()) -> BatchRows:
    none = np.empty(0, np.int64), np.empty((0, 0), np.float32), np.empty(0, np.uint8)
    return BatchRows(*none, residues=[], given_up=given_up, tokens=0)


def _attempt(compute: Callable[[], Result]) -> Result | Exception:
    """Return what `compute` returns, or the exception that it raises.

    Raises torch.AcceleratorError, after which this process cannot use the GPU any more.
    """
    try:
        return compute()
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever one sequence makes a model raise)
        # The traceback's frames would hold the memory of the batch.
        return error.with_traceback(None)


def _arrive(submitted: _Submitted) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Wait for a batch; return its (B, D) pooled rows, and windows' (m, D) token rows if any."""
    pooled, residues = submitted.rows.result()
    if residues is None:
        return pooled.numpy(), []
    rows = residues.numpy()
    return pooled.numpy(), [rows[window.start : window.stop] for window in submitted.batch.windows]


def _are_finite(pooled: NDArray[Any], residues: list[NDArray[Any]], number: int) -> bool:
    values = [pooled[number], *residues[number : number + 1]]
    return all(bool(np.isfinite(part).all()) for part in values)
