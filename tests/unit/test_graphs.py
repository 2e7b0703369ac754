"""Graphs of a model's passes, with a stand-in for what only a card can do: the capture.

The stand-in takes the function that is to be captured, and a replay calls it again: it reads and
writes the same tensors as a graph would.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock, call, create_autospec

import numpy as np
import pytest
import torch
from batch_runs import CPU, LOGGER, POOL, SMALL, TOKENIZER, model_of, name_of, outputs, tracker_of
from torch import Tensor

from seqembed.inference import graphs as graphs_module
from seqembed.inference.batches import Filling, PackedBatch, PackedWindow
from seqembed.inference.batches import pack as pack_windows
from seqembed.inference.failure_tracker import FailureTracker
from seqembed.inference.graphs import CudaCapture, EncoderGraphs, choose_bucket, open_graphs
from seqembed.inference.runner import AsyncInferenceRunner
from seqembed.kernels.names import FUSED, PLAIN
from seqembed.models.architectures import (
    Architecture,
    DnabertArchitecture,
    Esm2Architecture,
    ProtT5Architecture,
    T5Architecture,
)
from seqembed.models.encoders.attention import Packing, alibi_biases, attend_fused
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.encoders.esm2 import Esm2
from seqembed.models.encoders.t5 import T5

ROWS = 256
BLOCK = Filling(block=ROWS)
# The official DNABERTs and T5s are too wide for graphs.
WIDE = (DnabertArchitecture, T5Architecture)
ARCHITECTURES = [shape for shape in SMALL if not isinstance(shape, WIDE)]
# Residues of the sequences of batches; the first two are of one bucket, and the last two.
BATCHES = [[100, 50, 45, 25], [80, 70, 60, 7], [128], [125, 1, 1], [20] * 9, [15] * 12]


class StandIn:
    """A capture that counts what it captures, replays it by calling it again, and may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.opened, self.captured, self.replayed = error, 0, 0, 0

    def __call__(self) -> Callable[[Callable[[], object]], Callable[[], object]]:
        self.opened += 1
        return self.capture

    def capture(self, work: Callable[[], object]) -> Callable[[], object]:
        if self.error:
            raise self.error
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


def graphs_of(architecture: Architecture, stand_in: StandIn) -> EncoderGraphs:
    return EncoderGraphs(model_of(architecture), ROWS, LOGGER, stand_in)


def batch_of(lengths: Sequence[int], filling: Filling = BLOCK) -> PackedBatch:
    parts = [TOKENIZER.encode(POOL[length].encode()) for length in lengths]
    windows, start = [], 0
    for position, part in enumerate(parts):
        stop = start + len(part)
        windows.append(PackedWindow(position, start + 1, stop - 1, first=True, last=True))
        start = stop
    return pack_windows(windows, parts, filling)


@torch.inference_mode()
def rows_of(forward: Callable[[Tensor, Packing], Tensor], batch: PackedBatch) -> Tensor:
    return forward(batch.tokens, batch.packing).clone()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=name_of)
def test_rows_have_the_bits_of_a_pass_without_a_graph(architecture):
    stand_in = StandIn()
    found, model = graphs_of(architecture, stand_in), model_of(architecture)
    batches = [*map(batch_of, [*BATCHES, *BATCHES[::-1]])]
    for batch in batches:
        assert torch.equal(rows_of(found, batch), rows_of(model, batch))
    buckets = {choose_bucket(batch.packing) for batch in batches}
    assert (stand_in.opened, stand_in.captured) == (1, len(buckets))
    # A bucket's first batch is computed without a graph.
    assert stand_in.replayed == len(batches) - len(buckets)


def test_rows_of_a_graph_have_the_dtype_of_a_pass_without():
    """Those of an inner layer of a T5 stay float32 beside weights in half precision."""
    shape = ProtT5Architecture(2, 64, 2, 128, 16, "relu", 32, 128, 128)
    model = T5(shape, 1).eval().requires_grad_(False).half()
    found, expected = EncoderGraphs(model, ROWS, LOGGER, StandIn()), []
    for _ in range(2):
        expected.append(rows_of(found, batch_of(BATCHES[0])))
    assert expected[0].dtype == torch.float32 and torch.equal(*expected)


@pytest.mark.parametrize(
    ("lengths", "bucket"),
    [
        ([1], (1, 128)),
        ([128] * 2, (2, 128)),
        ([129, 1, 1], (4, 256)),
        ([1000] * 16 + [384], (32, 1024)),
        ([1025, 1], (2, 2048)),
        ([3] * 4096, (4096, 128)),
    ],
)
def test_counts_and_lengths_are_rounded_up_to_powers_of_two(lengths, bucket):
    assert choose_bucket(Packing.of(lengths)) == bucket


def test_a_graph_knows_no_batch_but_the_number_of_its_rows_and_its_bucket():
    passes = []

    class Noting(Esm2):
        def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
            passes.append((tokens.data_ptr(), packing))
            return super().forward(tokens, packing)

    shape, stand_in = SMALL[0], StandIn()
    model = Noting(shape, shape.layers).eval().requires_grad_(False)
    found = EncoderGraphs(model, ROWS, LOGGER, stand_in)
    with torch.inference_mode():
        for lengths in (BATCHES[0], BATCHES[1], BATCHES[0]):
            batch = batch_of(lengths)
            rows = found(batch.tokens, batch.packing)
    assert stand_in.captured == 1 and rows is found._graphs._rows
    # The new graph's rows are compared with those of a pass without.
    first, captured, compared, replayed = passes
    bounds = batch.packing.bounds
    assert first[1].known == bounds and first[1].longest == 102
    assert compared[1].known == batch_of(BATCHES[1]).packing.bounds
    for _, packing in (captured, replayed):
        assert (packing.known, packing.total, packing.longest) == (None, ROWS, 128)
    # A new Packing of the same tensors each time, with empty sequences at the end.
    (place, earlier), (other, later) = captured, replayed
    assert place == other and earlier is not later and earlier.cu_seqlens is later.cu_seqlens
    assert later.cu_seqlens.tolist() == [*bounds, *[ROWS] * (9 - len(bounds))]


@pytest.mark.parametrize("slopes", [None, torch.tensor([0.5, 0.25])], ids=["plain", "biased"])
def test_spare_sequences_and_a_longer_length_change_no_bit_of_fused_attention(slopes):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    qkv = torch.randn(113, 3, 2, 16, generator=torch.Generator().manual_seed(1)).to(device)
    rows = []
    for spare, longest in ((0, 70), (2, 128)):
        bounds = torch.tensor([0, 70, 73, 113, *[113] * spare], dtype=torch.int32, device=device)
        biases = None if slopes is None else alibi_biases(slopes.to(device), longest)
        rows.append(attend_fused(*qkv.unbind(1), Packing(bounds, 113, longest), biases))
    assert torch.equal(*rows) and rows[0].isfinite().all()


def test_a_batch_of_another_number_of_rows_needs_no_graph():
    stand_in = StandIn()
    found = graphs_of(SMALL[0], stand_in)
    for filling in (Filling(block=2 * ROWS), Filling(), Filling(block=2 * ROWS)):
        batch = batch_of(BATCHES[0], filling)
        assert torch.equal(rows_of(found, batch), rows_of(model_of(SMALL[0]), batch))
    assert stand_in.opened == 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("capture\nis invalid")]
)
def test_without_room_for_a_graph_there_is_none_from_then_on_and_one_line_says_so(error, caplog):
    stand_in = StandIn()
    found, model = graphs_of(SMALL[0], stand_in), model_of(SMALL[0])
    with caplog.at_level(logging.INFO, LOGGER.name):
        for number, batch in enumerate(map(batch_of, [BATCHES[n] for n in (0, 0, 4, 4, 0, 0)])):
            stand_in.error = error if number == 3 else None
            assert torch.equal(rows_of(found, batch), rows_of(model, batch))
    assert (stand_in.opened, stand_in.captured, stand_in.replayed) == (1, 1, 1)
    assert found._graphs is None
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    words = "no graph is used until this worker ends"
    assert caplog.messages == [f"CUDA graphs failed ({reason}): {words}"]


def test_an_error_of_the_gpu_itself_is_not_one_of_graphs(monkeypatch, caplog):
    stand_in = StandIn()
    found, batch = graphs_of(SMALL[0], stand_in), batch_of(BATCHES[0])
    for _ in range(2):
        rows_of(found, batch)

    def wait(graphs: object) -> None:
        raise torch.AcceleratorError("device-side assert")

    monkeypatch.setattr(graphs_module._Graphs, "wait", wait)
    stand_in.error = torch.AcceleratorError("device-side assert")
    other = batch_of(BATCHES[4])
    rows_of(found, other)
    with pytest.raises(torch.AcceleratorError):
        rows_of(found, other)
    assert not caplog.messages


def test_a_graph_that_gives_other_rows_is_not_used(caplog):
    class Wrong(StandIn):
        def capture(self, work: Callable[[], object]) -> Callable[[], object]:
            replay = super().capture(work)

            def add() -> None:
                replay()
                found._graphs._rows[7, 3] += 1e-3

            return add

    stand_in = Wrong()
    found, model, batch = graphs_of(SMALL[0], stand_in), model_of(SMALL[0]), batch_of(BATCHES[0])
    for _ in range(4):
        assert torch.equal(rows_of(found, batch), rows_of(model, batch))
    assert (stand_in.captured, stand_in.replayed) == (1, 1) and found._graphs is None
    (line,) = caplog.messages
    assert "a graph gave other rows" in line


def test_a_graph_with_rows_that_are_not_finite_is_used():
    stand_in, model = StandIn(), copy.deepcopy(model_of(SMALL[0]))
    model.final_norm.weight[0] = torch.nan
    found, batch = EncoderGraphs(model, ROWS, LOGGER, stand_in), batch_of(BATCHES[0])
    assert all(rows_of(found, batch)[:, 0].isnan().all() for _ in range(3))
    assert stand_in.replayed == 2


def test_dropped_graphs_hold_nothing_and_are_captured_anew():
    stand_in = StandIn()
    found, batch = graphs_of(SMALL[0], stand_in), batch_of(BATCHES[0])
    for _ in range(3):
        rows_of(found, batch)
    before = found._graphs
    found.drop()
    assert before is not None and found._graphs is None
    for _ in range(3):
        assert torch.equal(rows_of(found, batch), rows_of(model_of(SMALL[0]), batch))
    # Memory that was given back cannot be shared any more, so a new capture is opened.
    assert (stand_in.opened, stand_in.captured, stand_in.replayed) == (2, 2, 4)


def batches_of_a_run(too_large: int) -> list[PackedBatch]:
    """20 batches of one bucket and three sequences each; one has too many rows for a graph."""
    batches = []
    for number in range(20):
        block = 2 * ROWS if number == too_large else ROWS
        batch = batch_of([70, 60, 40 + number], Filling(block=block))
        moved = [w._replace(position=3 * number + w.position) for w in batch.windows]
        batches.append(replace(batch, windows=moved))
    return batches


def run(
    model: Encoder,
    stand_in: StandIn | None,
    folder: Path,
    *,
    limit: int | None = None,
    crashed: bool = False,
    precise: Encoder | None = None,
) -> np.ndarray:
    """(60, D) rows of batches_of_a_run(9).

    limit: a token limit of earlier runs. crashed: whether the last process crashed.
    """
    tracker = tracker_of(60, folder, token_limit=limit)
    if crashed:
        tracker.note_in_flight(batches_of_a_run(9)[:1])
        tracker.record_crash({"reason": "exit code -6", "memory": False})
    return rows_of_run(open_runner(model, stand_in, tracker, precise or model))


def open_runner(
    model: Encoder, stand_in: StandIn | None, tracker: FailureTracker, precise: Encoder
) -> AsyncInferenceRunner:
    return AsyncInferenceRunner(
        model,
        CPU,
        outputs(),
        tracker,
        lambda: precise,
        token_budget=2 * ROWS,
        streams=1,
        threads=1,
        graphs=stand_in and EncoderGraphs(model, ROWS, LOGGER, stand_in),
    )


def rows_of_run(runner: AsyncInferenceRunner) -> np.ndarray:
    rows = {}
    for part in runner.run(batches_of_a_run(9)):
        rows |= zip(part.positions.tolist(), part.rows, strict=True)
    assert sorted(rows) == [*range(60)]
    return np.stack([rows[position] for position in range(60)])


class Failing(Esm2):
    """Raises `errors`, one at a time, for batches of more than ROWS rows."""

    errors: Iterator[Exception] = iter([])

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        if len(tokens) > ROWS and (error := next(self.errors, None)):
            raise error
        return super().forward(tokens, packing)


@pytest.mark.parametrize(
    ("error", "before", "opened", "replayed"),
    [
        (None, {}, 1, 18),
        # Without memory there are no graphs any more, not even in a later process.
        (torch.OutOfMemoryError("CUDA out of memory"), {}, 1, 8),
        (None, {"limit": 150}, 0, 0),
        # A graph may have been the cause.
        (None, {"crashed": True}, 0, 0),
        # Three sequences alone, of two buckets, and ten batches.
        (ValueError("not this one"), {}, 2, 8 + 9),
    ],
)
def test_a_run_takes_graphs_until_memory_runs_out(error, before, opened, replayed, tmp_path):
    stand_in, shape = StandIn(), SMALL[0]
    model = Failing(shape, shape.layers).eval().requires_grad_(False)
    model.load_state_dict(model_of(shape).state_dict())
    model.errors = iter([error] if error else [])
    found = run(model, stand_in, tmp_path, **before)
    assert found.tobytes() == run(model_of(shape), None, tmp_path).tobytes()
    assert (stand_in.opened, stand_in.replayed) == (opened, replayed)


def test_rows_that_are_not_finite_are_computed_again_by_the_model_in_fp32(tmp_path):
    class Late(Esm2):
        """Its first five passes, one of which is a graph's first, give finite values."""

        passes = 0

        def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
            self.passes += 1
            return super().forward(tokens, packing) * (1 if self.passes < 6 else torch.nan)

    shape, stand_in = SMALL[0], StandIn()
    damaged = Late(shape, shape.layers).eval().requires_grad_(False)
    damaged.load_state_dict(model_of(shape).state_dict())
    found = run(damaged, stand_in, tmp_path, precise=model_of(shape))
    assert found.tobytes() == run(model_of(shape), None, tmp_path).tobytes()
    # Before the model in fp32 is loaded, and then no more, the graphs give their memory back.
    assert (stand_in.opened, stand_in.captured) == (2, 2)


def test_graphs_give_their_memory_back_if_the_model_in_fp32_lacks_it(tmp_path):
    class Tight(Esm2):
        """Has no room for rows beside graphs."""

        def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
            if runner._graphs._graphs:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(tokens, packing)

    shape, stand_in = SMALL[0], StandIn()
    damaged, precise = (kind(shape, shape.layers).eval() for kind in (Esm2, Tight))
    precise.load_state_dict(model_of(shape).state_dict())
    damaged.final_norm.weight.data.fill_(torch.nan)
    runner = open_runner(damaged, stand_in, tracker_of(60, tmp_path), precise)
    found = rows_of_run(runner)
    assert found.tobytes() == run(model_of(shape), None, tmp_path).tobytes()
    assert stand_in.opened > 1


SHAPES = {
    (Esm2, Esm2Architecture(1, 640, 20, 2560), FUSED): True,
    (Esm2, Esm2Architecture(1, 640, 20, 2560), PLAIN): False,
    (Esm2, Esm2Architecture(1, 960, 20, 2560), FUSED): False,
}


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_small_models_with_fused_steps_have_graphs(case):
    kind, shape, kernels = case
    model = kind(shape, 1)
    model.kernels = kernels
    assert bool(open_graphs(model, ROWS, LOGGER)) == SHAPES[case]


@pytest.fixture
def stream(monkeypatch):
    """A stream of a card that is not here; its `steps` are what is done on it, in order."""
    stream, steps = MagicMock(), []
    context = create_autospec(torch.cuda.graph)
    context.return_value.__enter__.side_effect = lambda: steps.append("capture")
    for name in ("CUDAGraph", "current_stream", "graph_pool_handle", "stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "graph", context)
    current = torch.cuda.current_stream()
    stream.wait_stream.side_effect = lambda other: steps.append("wait")
    current.wait_stream.side_effect = lambda other: steps.append("join")
    stream.steps = steps
    return stream


def test_a_capture_comes_after_a_call_on_its_stream_and_lets_other_threads_go_on(stream):
    launch = CudaCapture(stream)(lambda: stream.steps.append("call"))
    assert stream.steps == ["wait", "call", "join", "capture", "call"]
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    torch.cuda.graph.assert_called_once_with(graph, pool, stream, capture_error_mode="thread_local")
    assert torch.cuda.stream.call_args_list == [call(stream)] * 2
    assert launch is graph.replay


def test_memory_is_given_back_after_what_the_stream_still_does(stream):
    def fail() -> None:
        stream.steps.append("call")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        CudaCapture(stream)(fail)
    assert stream.steps == ["wait", "call", "join"]


def test_all_captures_of_a_model_are_made_on_one_stream(monkeypatch):
    made = MagicMock()
    monkeypatch.setattr(torch.cuda, "Stream", made)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", MagicMock())
    model = Esm2(SMALL[0], SMALL[0].layers)
    model.kernels = FUSED
    found = open_graphs(model, ROWS, LOGGER)
    assert found is not None and not made.called
    one, other = found._make_capture(), found._make_capture()
    assert one._stream is other._stream and made.call_count == 1
