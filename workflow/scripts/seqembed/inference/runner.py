"""Run packed batches through a model, and return pooled rows and, if asked for, token rows.

If a batch fails, the failure tracker decides what is computed in its place. If a window's values
are not finite, the window is computed again in fp32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise, takewhile
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqembed.flags import FP32_RETRY
from seqembed.inference.batches import PackedBatch, choose_filling, plan_batches
from seqembed.inference.failure_tracker import FailureTracker, is_out_of_memory
from seqembed.inference.graphs import EncoderGraphs
from seqembed.inference.pooling import WindowPool, pooled_span
from seqembed.inference.rows import BatchRows, Outputs
from seqembed.inference.streams import CpuStreams, CudaStream, Rows
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.encoder import Encoder

Result = TypeVar("Result")
Array = NDArray[Any]

# The caller gets an empty result after this many seconds in which no batch is finished.
WAIT_SECONDS = 0.2
NOT_FINITE = "its values are not finite, in fp32 too"
NO_ROOM = "its values are not finite, and there is too little memory for the model in fp32"
TOO_LARGE = "its values are too large for float16; `embedding: {storage: float32}` holds them"


@dataclass(frozen=True, eq=False)
class _Submitted:
    """A batch that waits or is being computed; alone: no other batch is computed beside it."""

    batch: PackedBatch
    alone: bool
    rows: Future[Rows]


class AsyncInferenceRunner:
    """Computes batches, and yields their rows in the order of the batches.

    While a batch is being computed, the next batches are read and submitted (see streams.py).

    tracker: records every batch, and decides what is computed in place of a failed batch.
    load_fp32: returns the model in fp32; called at most once, when values are not finite.
    token_budget: a batch of more tokens is computed alone. streams: how many batches a CPU computes
    at once. threads: how many threads of the CPU all batches have together. graphs: the model's
    CUDA graphs, if it has any.
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
        graphs: EncoderGraphs | None = None,
    ) -> None:
        self._model, self._outputs, self._tracker = model, outputs, tracker
        self._graphs = graphs
        self._device = device
        # An error is kept, too: each try would read all weights again.
        self._load_fp32 = cache(partial(self._load_without_graphs, load_fp32))
        self._token_budget = token_budget
        self._streams: CpuStreams | CudaStream
        if device.type == "cuda":
            self._streams = CudaStream(device)
        else:
            self._streams = CpuStreams(streams, threads, model.even_threads)
        self._submitted: deque[_Submitted] = deque()
        self._retried: set[int] = set()
        self._windows = WindowPool(outputs.pooling)
        self._span = partial(
            pooled_span,
            pooling=outputs.pooling,
            specials=outputs.specials,
            pools_specials=outputs.pools_specials,
        )

    def run(
        self, batches: Iterable[PackedBatch], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[BatchRows]:
        """Yield the rows of `batches`, without those of sequences that fail.

        Yields BatchRows() now and then while a batch is computed. Once `stopped()` is true, no new
        batch begins; the batches being computed are finished. Raises NotTheSequencesError or
        NonFiniteError if too many sequences in a row fail.
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
        """Submit a batch, in parts if it is over the token limit, once there is room for it.

        Yields the rows of earlier batches that are finished meanwhile. alone: the batch is computed
        beside no other, and its rows are yielded here, too.
        """
        yield from self._make_room(1 if alone or self._needs_all(batch) else self._streams.depth)
        # Earlier batches may have failed meanwhile: the tracker then has given up sequences, or
        # lowered the token limit.
        if self._stopped() or not (kept := self._kept(batch)):
            return
        wanted = batch if len(kept) == len(batch.windows) else batch.select(kept)
        if len(parts := wanted.cut(self._tracker.known.token_limit)) > 1:
            for part in parts:
                yield from self._run(part, alone=alone)
            return
        self._tracker.note_in_flight([earlier.batch for earlier in self._submitted] + [wanted])
        on_its_own = alone or self._needs_all(wanted)
        blamed = on_its_own or not self._streams.concurrent
        submitted = _attempt(lambda: self._begin(wanted, self._model, blamed))
        if isinstance(submitted, Exception):
            yield from self._make_room(1)
            yield from self._replace(wanted, submitted, blamed)
            return
        self._submitted.append(submitted)
        if on_its_own:
            # The next batch may end the process, so this batch's rows are yielded before.
            yield from self._make_room(1)

    def _needs_all(self, batch: PackedBatch) -> bool:
        """Whether a batch is computed alone, because it may end the process or fill the memory."""
        scarce = self._tracker.known.token_limit is not None and self._streams.concurrent
        large = batch.size > self._token_budget
        return scarce or large or self._tracker.find_suspect(batch) is not None

    def _kept(self, batch: PackedBatch) -> list[int]:
        return [n for n, w in enumerate(batch.windows) if w.position not in self._tracker.given_up]

    def _make_room(self, depth: int) -> Iterator[BatchRows]:
        """Wait until fewer than `depth` batches are submitted; yield the finished batches' rows."""
        while len(self._submitted) >= depth:
            if not wait([self._submitted[0].rows], WAIT_SECONDS).done:
                yield BatchRows()
            else:
                oldest = self._submitted.popleft()
                arrived = _attempt(partial(_arrive, oldest))
                if isinstance(arrived, Exception):
                    yield from self._replace(oldest.batch, arrived, oldest.alone)
                else:
                    self._tracker.note_in_flight([later.batch for later in self._submitted])
                    yield self._finish(oldest.batch, *arrived)
            # The latest batch is cancelled first: no batch after a cancelled one is computed.
            while self._stopped() and self._submitted and self._submitted[-1].rows.cancel():
                self._submitted.pop()

    def _begin(self, batch: PackedBatch, model: Encoder, alone: bool) -> _Submitted:
        compute = partial(self._compute, model, [*map(self._span, batch.windows)])
        return _Submitted(batch, alone, self._streams.submit(batch, compute, alone=alone))

    @torch.inference_mode()
    def _compute(
        self, model: Encoder, spans: list[tuple[int, int]], tokens: Tensor, packing: Packing
    ) -> Rows:
        graphed = model is self._model and self._tracker.allows_graphs
        rows = (self._graphs if self._graphs and graphed else model)(tokens, packing)
        pooled = model.steps.pool(rows, spans, self._outputs.pooling == "max")
        dtype: torch.dtype = getattr(torch, self._outputs.storage)
        return pooled, rows.to(dtype) if self._outputs.per_residue else None

    def _replace(self, batch: PackedBatch, error: Exception, alone: bool) -> Iterator[BatchRows]:
        """Compute the batches that the tracker names in place of a batch that raised `error`.

        Batches that were submitted later hold memory: they are dropped, and computed again.
        """
        later = [submitted.batch for submitted in self._submitted]
        for submitted in self._submitted:
            if not submitted.rows.cancel():
                _attempt(submitted.rows.result)
        self._submitted.clear()
        if self._graphs:
            self._graphs.drop()
        # Blocks of GPU memory that the allocator keeps for reuse cannot be joined to larger ones.
        # After a capture that CUDA refused, PyTorch 2.11 raises an error here.
        _attempt(torch.cuda.empty_cache)
        parts = self._tracker.handle_failure(batch, error, alone=alone)
        yield BatchRows(given_up=() if parts else batch.positions)
        for part in parts:
            yield from self._run(part, alone=True)
        for following in later:
            yield from self._run(following)

    def _finish(self, batch: PackedBatch, pooled: Array, residues: list[Array]) -> BatchRows:
        """Return the rows of the sequences that a batch completes.

        pooled: (B, D), a row for each window. residues: the (m, D) token rows of each window; []
        if not asked for. A sequence whose row is too large for the storage's dtype is quarantined.
        """
        self._retry_in_fp32(batch, pooled, residues)
        kept = self._kept(batch)
        windows = [batch.windows[n] for n in kept]
        positions, rows = self._windows.add(windows, [*map(self._span, windows)], pooled[kept])
        with np.errstate(over="ignore"):  # the next line looks for infinities
            rows = rows.astype(self._outputs.storage)
        finite = np.isfinite(rows).all(1)
        for position in positions[~finite].tolist():
            self._tracker.quarantine(position, TOO_LARGE, in_doubt=not finite.any())
        positions, kept = positions[finite], self._kept(batch) if residues else []
        self._tracker.record_success(positions)
        retried = [row in self._retried for row in positions.tolist()]
        flags = np.array(retried, np.uint8) * np.uint8(FP32_RETRY)
        token_rows = [(batch.windows[n].position, residues[n]) for n in kept]
        given_up = [row for row in batch.positions if row in self._tracker.given_up]
        return BatchRows(positions, rows[finite], flags, token_rows, given_up, batch.size)

    def _retry_in_fp32(self, batch: PackedBatch, pooled: Array, residues: list[Array]) -> None:
        """Compute again, in fp32, each window whose row is not finite.

        The new rows replace the old ones in `pooled` and `residues`. A sequence whose values are
        still not finite, or for which there is no memory, is quarantined. The rows of other windows
        stay: no row depends on another.
        """
        finite = _find_finite(pooled, residues)
        doubt, given_up = not finite.any(), self._tracker.given_up
        filling = choose_filling(self._device, pooled.shape[1], torch.float32)
        waiting = deque(_plan_retries(batch, np.flatnonzero(~finite), filling.block))
        while waiting:
            wanted = waiting.popleft()
            if not (numbers := [n for n in wanted if batch.windows[n].position not in given_up]):
                continue
            again = self._compute_in_fp32(batch.select(numbers, filling))
            if not isinstance(again, Exception):
                self._take_again(batch, numbers, again, pooled, residues, doubt)
            elif not is_out_of_memory(again):
                raise again
            elif len(numbers) > 1:
                waiting.extendleft([number] for number in reversed(numbers))
            else:
                position = batch.windows[numbers[0]].position
                self._tracker.quarantine(position, NO_ROOM, in_doubt=doubt)

    def _take_again(
        self,
        batch: PackedBatch,
        numbers: list[int],
        again: tuple[Array, list[Array]],
        pooled: Array,
        residues: list[Array],
        doubt: bool,
    ) -> None:
        finite = _find_finite(*again)
        for place, number in enumerate(numbers):
            position = batch.windows[number].position
            pooled[number] = again[0][place]
            residues[number : number + 1] = again[1][place : place + 1]
            self._retried.add(position)
            if not finite[place] and position not in self._tracker.given_up:
                # Pooled rows are float32 here, token rows are in the storage's dtype already.
                large = self._outputs.storage == "float16" and np.isfinite(again[0][place]).all()
                reason = TOO_LARGE if large else NOT_FINITE
                self._tracker.quarantine(position, reason, in_doubt=doubt)

    def _load_without_graphs(self, load_fp32: Callable[[], Encoder]) -> Encoder | Exception:
        # A second model needs memory.
        if self._graphs:
            self._graphs.drop()
        return _attempt(load_fp32)

    def _compute_in_fp32(self, batch: PackedBatch) -> tuple[Array, list[Array]] | Exception:
        """Return the rows of a batch by the model in fp32, as _arrive does, or an error."""
        model = self._load_fp32()
        if isinstance(model, Exception):
            return model

        def compute() -> tuple[Array, list[Array]]:
            return _arrive(self._begin(batch, model, alone=False))

        found = _attempt(compute)
        if self._graphs and isinstance(found, Exception) and is_out_of_memory(found):
            self._graphs.drop()
            found = _attempt(compute)
        return found


def _attempt(compute: Callable[[], Result]) -> Result | Exception:
    try:
        return compute()
    except torch.AcceleratorError:
        raise  # This process cannot use the GPU any more.
    except Exception as error:  # noqa: BLE001 (a sequence may make a model raise any type)
        # The traceback's frames would hold the memory of the batch.
        return error.with_traceback(None)


def _arrive(submitted: _Submitted) -> tuple[Array, list[Array]]:
    """Wait for a batch; return (B, D) pooled rows, and each window's (m, D) token rows, or []."""
    pooled, residues = submitted.rows.result()
    if residues is None:
        return pooled.numpy(), []
    rows = residues.numpy()
    return pooled.numpy(), [rows[window.start : window.stop] for window in submitted.batch.windows]


def _plan_retries(batch: PackedBatch, numbers: NDArray[np.intp], block: int) -> Iterator[list[int]]:
    """Yield which windows are computed again together: a block of rows, on a CPU one window.

    A GPU takes as long for a block as for a window in it.
    """
    sizes = np.diff(batch.packing.bounds)[numbers]
    for start, stop in pairwise(plan_batches(sizes, block).tolist()):
        yield numbers[start:stop].tolist()


def _find_finite(pooled: Array, residues: list[Array]) -> NDArray[np.bool_]:
    """Return which windows have finite values only, (B,); the arguments are _arrive's result."""
    finite = np.asarray(np.isfinite(pooled).all(1))
    for number, rows in enumerate(residues):
        finite[number] &= np.isfinite(rows).all()
    return finite
