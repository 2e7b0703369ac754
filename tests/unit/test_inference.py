"""The batch runner: rows in order, windows put together, and what is computed after a failure."""

from __future__ import annotations

import gc
import itertools
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
from batch_runs import (
    CPU,
    POOL,
    SMALL,
    TOKENIZER,
    TRUNCATE,
    WINDOW,
    embed,
    gather,
    model_of,
    outputs,
    pack,
    runner_of,
    tracker_of,
)
from torch import nn
from worker_runs import make_sequences

from seqembed.checkpoints.manifest_and_failures import Suspect, read_failures
from seqembed.errors import FreshProcessError, NonFiniteError, NotTheSequencesError
from seqembed.flags import FP32_RETRY
from seqembed.inference.batches import Filling, PackedBatch
from seqembed.inference.failure_tracker import MAX_IN_A_ROW
from seqembed.inference.rows import BatchRows
from seqembed.inference.runner import AsyncInferenceRunner
from seqembed.kernels import plain
from seqembed.models.architectures import Architecture
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.vocabularies import ESM, Vocabulary
from seqembed.settings.lengths import LengthPolicy


def plain_rows(architecture: Architecture, sequence: str) -> np.ndarray:
    """The (n + 2, D) rows of a sequence, or a window, by itself."""
    tokens = torch.from_numpy(TOKENIZER.encode(sequence.encode()))
    with torch.inference_mode():
        rows = model_of(architecture)(tokens, Packing.of([len(tokens)]))
    return rows.numpy()


def stitched_rows(architecture: Architecture, sequence: str, policy: LengthPolicy) -> np.ndarray:
    """(n + 2, D): what each window keeps, the first's special in front, the last's behind."""
    windows = policy.cut(len(sequence))
    rows = [plain_rows(architecture, sequence[w.start : w.stop]) for w in windows]
    kept = [
        found[1 + w.keep_start - w.start : 1 + w.keep_stop - w.start]
        for w, found in zip(windows, rows, strict=True)
    ]
    return np.concatenate([rows[0][:1], *kept, rows[-1][-1:]])


@pytest.mark.parametrize("pools_specials", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("length", [1, 59, 60, 61, 90, 91, 300])
def test_rows_of_windows_are_put_together(length, pooling, pools_specials):
    architecture = SMALL[0]
    wanted = replace(outputs(pooling), pools_specials=pools_specials, per_residue=True)
    expected = stitched_rows(architecture, POOL[length], WINDOW)
    pooled = {
        "mean": (expected if pools_specials else expected[1:-1]).mean(0),
        "max": (expected if pools_specials else expected[1:-1]).max(0),
        "cls": expected[0],
    }
    for budget in (62, 200, 4096):
        rows, tokens = embed(architecture, [POOL[length]], budget, 1, WINDOW, wanted)
        np.testing.assert_allclose(tokens[0], expected[1:-1], atol=2e-5)
        np.testing.assert_allclose(rows[0], pooled[pooling], atol=2e-5)


class StandIn(nn.Module):
    """A model whose rows are the tokens, or those of another model; it notes sizes and threads.

    act: called with each batch's tokens and (T, 3) rows; it may change these, or raise.
    """

    def __init__(
        self,
        act: Callable[[torch.Tensor, torch.Tensor], None] = lambda tokens, rows: None,
        model: nn.Module | None = None,
        width: int = 3,
    ) -> None:
        super().__init__()
        self.act, self.model, self.width, self.steps = act, model, width, plain
        self.sizes: list[int] = []
        self.threads: list[int] = []

    def even_threads(self, rows: int, threads: int) -> int:
        return threads

    def forward(self, tokens: torch.Tensor, packing: Packing) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        self.sizes.append(len(tokens))
        self.threads.append(torch.get_num_threads())
        rows = tokens.float()[:, None].repeat(1, self.width)
        self.act(tokens, rows)
        return self.model(tokens, packing) if self.model else rows


class Places(StandIn):
    """A row is its token, its place in its window, and the window's length."""

    def forward(self, tokens: torch.Tensor, packing: Packing) -> torch.Tensor:
        lengths = np.diff(packing.bounds)
        whole = torch.from_numpy(np.repeat(lengths, lengths))
        return torch.stack([tokens, packing.positions, whole], 1).float()


@pytest.mark.parametrize("pools_specials", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize(("before", "after"), [(0, 1), (2, 1), (0, 0), (1, 2)])
def test_windows_have_the_specials_that_a_family_states(before, after, pooling, pools_specials):
    vocabulary = Vocabulary(
        name="toy",
        tokens=ESM.tokens,
        size=ESM.size,
        letters=ESM.letters,
        before=("<cls>", "<null_1>")[:before],
        after=("<eos>", "<mask>")[:after],
    )
    ids, tokenizer = vocabulary.tokens.index, ResidueTokenizer(vocabulary)
    first, last = [*map(ids, vocabulary.before)], [*map(ids, vocabulary.after)]
    policy = replace(WINDOW, specials=vocabulary.specials)
    sequences = [POOL[length] for length in (300, 91, 61, 60, 1)]
    expected = []
    for sequence in sequences:
        rows, windows = [], policy.cut(len(sequence))
        read = sum(w.stop - w.start + before + after for w in windows)
        assert policy.model_tokens(np.array([len(sequence)])).tolist() == [read]
        for number, w in enumerate(windows):
            tokens = [*first, *map(ids, sequence[w.start : w.stop]), *last]
            found = [[token, place, len(tokens)] for place, token in enumerate(tokens)]
            begin, end = before + w.keep_start - w.start, before + w.keep_stop - w.start
            begin, end = begin if number else 0, end if w is not windows[-1] else len(tokens)
            rows += found[begin:end]
        expected.append(np.float32(rows))
    wanted = replace(
        outputs(pooling, per_residue=True),
        specials=vocabulary.specials,
        pools_specials=pools_specials,
    )
    for budget in (1, 200, 4096):
        batches = pack(sequences, budget, policy, tokenizer)
        runner = runner_of(Places(), len(sequences), wanted, budget=budget)
        rows, tokens = gather(runner.run(batches), len(sequences))
        for own, residues, whole in zip(rows, tokens, expected, strict=True):
            inner = whole[before : len(whole) - after]
            np.testing.assert_array_equal(residues, inner)
            counted = whole if pools_specials else inner
            pooled = counted.mean(0) if pooling == "mean" else counted.max(0)
            np.testing.assert_allclose(own, pooled, rtol=1e-6)


def test_half_storage_is_the_rounded_row():
    sequences = [POOL[n] for n in (70, 40, 300)]
    whole, tokens = embed(SMALL[0], sequences, wanted=outputs(per_residue=True))
    half, halves = embed(SMALL[0], sequences, wanted=outputs(per_residue=True, storage="float16"))
    assert half.dtype == halves[0].dtype == np.float16
    np.testing.assert_array_equal(half, whole.astype(np.float16))
    for a, b in zip(halves, tokens, strict=True):
        np.testing.assert_array_equal(a, b.astype(np.float16))


def positions_of(parts: Iterable[BatchRows]) -> list[int]:
    return np.concatenate([part.positions for part in parts]).tolist()


def test_batches_come_in_order_with_their_tokens_and_without_the_dummy():
    sequences = [POOL[n] for n in (130, 40, 50, 60, 3)]
    parts = list(runner_of(StandIn(), 5, outputs()).run(pack(sequences, 160)))
    assert [part.positions.tolist() for part in parts] == [[0], [1, 2, 3], [4]]
    assert [part.tokens for part in parts] == [132, 42 + 52 + 62, 5]
    assert [part.rows.shape for part in parts] == [(1, 3), (3, 3), (1, 3)]
    assert {part.rows.dtype for part in parts} == {np.dtype(np.float32)}


def test_batches_are_computed_when_they_are_asked_for():
    model = StandIn()
    rows = runner_of(model, 4, outputs()).run(pack([POOL[200]] * 4, 1))
    assert model.sizes == []
    next(rows)
    assert len(model.sizes) == 1


def test_rows_are_not_held_once_they_are_yielded():
    held, batches = [], pack([POOL[130]] * 60, 1)
    tracemalloc.start()
    try:
        runner = runner_of(StandIn(width=1000), 60, outputs())
        for number, part in enumerate(runner.run(batches)):
            del part
            if number in (9, 59):
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # The rows of 50 batches are 200 kB.
    assert held[1] - held[0] < 50_000


# Values that are not finite.


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_computed_again_alone_in_fp32(value):
    def spoil_second(tokens: torch.Tensor, rows: torch.Tensor) -> None:
        if len(model.sizes) == 2:
            rows[1] = value

    model, precise, wanted = StandIn(spoil_second), StandIn(), outputs(per_residue=True)
    sequences = [POOL[n] for n in range(50, 59)]
    found = list(runner_of(model, 9, wanted, precise=precise).run(pack(sequences, 160)))
    assert len(precise.sizes) == 1
    plain = list(runner_of(StandIn(), 9, wanted).run(pack(sequences, 160)))
    flags = np.concatenate([part.flags for part in found])
    assert flags.tolist() == [0, 0, 0, FP32_RETRY, *[0] * 5]
    (rows, tokens), (expected, whole) = gather(found, 9), gather(plain, 9)
    assert rows.tobytes() == expected.tobytes()
    assert [own.tobytes() for own in tokens] == [own.tobytes() for own in whole]


U = int(TOKENIZER.encode(b"U")[1])


def spoil(value: float) -> Callable[[torch.Tensor, torch.Tensor], None]:
    def act(tokens: torch.Tensor, rows: torch.Tensor) -> None:
        rows[tokens == U] = value

    return act


@pytest.mark.parametrize(("error", "batches"), [(None, 2), (MemoryError("no room"), 4)])
def test_a_gpu_computes_a_block_of_windows_again_at_once(error, batches, monkeypatch, tmp_path):
    """A block has room for the first two of three; without memory each is computed alone."""
    monkeypatch.setattr(
        "seqembed.inference.runner.choose_filling", lambda *_: Filling(least=1, block=160)
    )

    def fail_once(tokens: torch.Tensor, rows: torch.Tensor) -> None:
        if error and len(precise.sizes) == 1:
            raise error

    sequences = [POOL[50], "U" + POOL[49], POOL[52], "U" + POOL[89], "U" + POOL[90], POOL[53]]
    precise, wanted, tracker = (
        StandIn(fail_once),
        outputs(per_residue=True),
        tracker_of(6, tmp_path),
    )
    own = runner_of(StandIn(spoil(torch.nan)), 6, wanted, tracker, precise=precise)
    found = list(own.run(pack(sequences, 4096)))
    assert not tracker.given_up
    assert precise.sizes == [160] * batches
    (rows, tokens), (expected, whole) = (
        gather(found, 6),
        gather(list(runner_of(StandIn(), 6, wanted).run(pack(sequences, 4096))), 6),
    )
    assert rows.tobytes() == expected.tobytes()
    assert [own.tobytes() for own in tokens] == [own.tobytes() for own in whole]
    assert np.concatenate([part.flags for part in found]).tolist() == [0, 4, 0, 4, 4, 0]
    assert sum(part.retried for part in found) == 3


@pytest.mark.parametrize(
    ("value", "wanted", "reason"),
    [
        (torch.nan, outputs(), "not finite, in fp32 too"),
        (1e6, outputs("max", storage="float16"), "storage: float32"),
        # The pooled row is the first token's, and finite.
        (torch.inf, outputs("cls", per_residue=True), "not finite, in fp32 too"),
    ],
)
def test_a_sequence_that_stays_so_is_quarantined_and_its_neighbours_are_not(
    value, wanted, reason, tmp_path
):
    sequences = [POOL[50], POOL[51] + "U", POOL[52], "U" + POOL[90], POOL[53]]
    tracker, model = tracker_of(5, tmp_path), StandIn(spoil(value))
    parts = list(runner_of(model, 5, wanted, tracker).run(pack(sequences, 170)))
    assert positions_of(parts) == [0, 2, 4]
    assert {name for part in parts for name, _ in part.residues} <= {0, 2, 4}
    assert tracker.given_up == {1, 3} and len(tracker.known.quarantined) == 2
    assert all(reason in text for text in read_failures(tmp_path).quarantined.values())
    tracker.finish()


@pytest.mark.parametrize("block", [1, 4096])
def test_the_windows_of_a_sequence_give_it_up_together(block, monkeypatch, tmp_path, caplog):
    """Of windows that stay so, a CPU computes the first one again, and a GPU all in a block."""
    filling = Filling(least=1, block=block)
    monkeypatch.setattr("seqembed.inference.runner.choose_filling", lambda *_: filling)
    tracker, precise = tracker_of(2, tmp_path), StandIn(spoil(torch.nan))
    own = runner_of(StandIn(spoil(torch.nan)), 2, outputs(), tracker, precise=precise)
    batches = pack([POOL[50], "U" * 300], 4096, policy=WINDOW)
    assert positions_of(list(own.run(batches))) == [0]
    assert (len(precise.sizes), tracker.given_up) == (1, {1})
    assert caplog.text.count("is quarantined") == 1


@pytest.mark.parametrize("at_loading", [True, False])
@pytest.mark.parametrize("error", [MemoryError("no room"), ValueError("damaged")])
def test_without_memory_for_fp32_only_that_sequence_is_quarantined(error, at_loading, tmp_path):
    loads: list[int] = []

    def fail(*_: object) -> None:
        raise error

    def load() -> nn.Module:
        loads.append(1)
        return fail() or StandIn() if at_loading else StandIn(fail)

    tracker, sequences = tracker_of(3, tmp_path), [POOL[50], POOL[51] + "U", "U" + POOL[90]]
    runner = AsyncInferenceRunner(
        StandIn(spoil(torch.nan)), CPU, outputs(), tracker, load,
        token_budget=4096, streams=1, threads=1,
    )  # fmt: skip
    if isinstance(error, ValueError):
        with pytest.raises(ValueError, match="damaged"):
            list(runner.run(pack(sequences, 4096)))
        return
    assert positions_of(list(runner.run(pack(sequences, 4096)))) == [0]
    assert len(loads) == 1
    reasons = read_failures(tmp_path).quarantined.values()
    assert len(reasons) == 2 and all("too little memory" in reason for reason in reasons)


def test_a_model_that_gives_nothing_finite_ends_the_run(tmp_path):
    runner = runner_of(StandIn(spoil(torch.nan)), 30, outputs(), tracker_of(30, tmp_path))
    with pytest.raises(NonFiniteError, match=f"for {MAX_IN_A_ROW} sequences in a row.*weights"):
        list(runner.run(pack(["U" * 60] * 30, 62)))
    assert read_failures(tmp_path).quarantined == {}


# Batches that raise.


def raise_in(*calls: int, seconds: float = 0.1) -> Callable[..., None]:
    """Raise in the calls of these numbers, the first of them after some time."""
    numbers = itertools.count()

    def act(tokens: torch.Tensor, rows: torch.Tensor) -> None:
        number = next(numbers)
        if number == calls[0]:
            time.sleep(seconds)
        if number in calls:
            raise RuntimeError("crowded")

    return act


@pytest.mark.timing
@pytest.mark.parametrize("policy", [TRUNCATE, WINDOW])
def test_batches_behind_one_that_failed_are_computed_again_in_order(policy, tmp_path, caplog):
    # Of the first, its second pass and the last are computed when its first one fails.
    sequences = [POOL[n] for n in (1022, *range(120, 20, -4))]
    wanted, tracker = outputs(per_residue=True), tracker_of(len(sequences), tmp_path)
    model = StandIn(raise_in(0, 1), model_of(SMALL[0]))
    runner = runner_of(model, len(sequences), wanted, tracker, budget=1100, threads=2)
    parts = list(runner.run(pack(sequences, 1100, policy)))
    assert "its sequences are tried one by one: RuntimeError: crowded" in caplog.text
    rows, residues = gather(parts, len(sequences))
    expected = embed(SMALL[0], sequences, 1100, 1, policy, wanted)
    assert rows.tobytes() == expected[0].tobytes()
    assert [own.tobytes() for own in residues] == [own.tobytes() for own in expected[1]]
    assert not tracker.given_up and not tracker.suspects


def wait_for(event: Event) -> Callable[..., None]:
    def act(tokens: torch.Tensor, rows: torch.Tensor) -> None:
        event.wait(20)

    return act


def test_after_a_stop_what_was_begun_is_finished_and_nothing_else_begins():
    go, asked = Event(), Event()
    sequences = make_sequences(range(120, 80, -4))
    model, taken = StandIn(wait_for(go)), []
    runner = runner_of(model, len(sequences), outputs(), budget=130, threads=2)
    batches = (taken.append(None) or batch for batch in pack(sequences, 130))
    parts = runner.run(batches, asked.is_set)
    assert not len(next(parts).positions)
    asked.set()
    assert not len(next(parts).positions)
    go.set()
    assert positions_of(parts) == [0, 1]
    # Two were computed, two waited, one was at hand, and the next was not even looked at.
    assert (len(model.sizes), len(taken)) == (2, 6)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_stop_while_a_failure_is_handled_leaves_no_row_without_a_part(failing):
    # It fails while those after it, which end its sequence, are computed.
    sequences, asked = [POOL[n] for n in (400, 50, 40)], Event()
    fails = raise_in(failing, seconds=0.3)

    def fail_and_stop(tokens: torch.Tensor, rows: torch.Tensor) -> None:
        try:
            fails(tokens, rows)
        except RuntimeError:
            asked.set()
            raise

    model = StandIn(fail_and_stop, model_of(SMALL[0]))
    runner = runner_of(model, len(sequences), outputs(), budget=300, threads=2)
    parts = [*runner.run(pack(sequences, 300, WINDOW), asked.is_set)]
    expected, _ = embed(SMALL[0], sequences, 300, 1, WINDOW)
    found = [(n, row) for part in parts for n, row in zip(part.positions, part.rows, strict=True)]
    assert all(row.tobytes() == expected[n].tobytes() for n, row in found)


@pytest.mark.timing
def test_nothing_is_begun_behind_a_cancelled_batch(tmp_path):
    go, asked, tracker = Event(), Event(), tracker_of(1, tmp_path)
    note_in_flight = tracker.note_in_flight

    def free_the_streams(batches: Sequence[PackedBatch]) -> None:
        if asked.is_set():
            go.set()
            time.sleep(0.3)
        note_in_flight(batches)

    # Of five passes, two are computed, two wait, and the last one is at hand.
    tracker.note_in_flight = free_the_streams
    runner = runner_of(StandIn(wait_for(go)), 1, outputs(), tracker, budget=130, threads=2)
    parts = runner.run(pack([POOL[330]], 130, WINDOW), asked.is_set)
    next(parts)
    asked.set()
    next(parts)
    go.set()
    assert not any(len(part.positions) for part in parts)


def test_after_a_stop_no_further_part_of_a_batch_is_begun(tmp_path):
    asked, tracker = Event(), tracker_of(4, tmp_path, token_limit=130)
    runner = runner_of(StandIn(lambda tokens, rows: asked.set()), 4, outputs(), tracker)
    parts = [*runner.run(pack([POOL[60]] * 4, 4096), asked.is_set)]
    assert positions_of(parts) == [0, 1]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_suspects_and_batches_over_the_budget_have_every_thread(threads, tmp_path):
    lengths = [500, 400, 290, 280, 270, 260]
    tracker = tracker_of(6, tmp_path, suspects={3: Suspect(reason="it crashed")})
    model = StandIn()
    runner = runner_of(model, 6, outputs(), tracker, budget=300, threads=threads)
    list(runner.run(pack(make_sequences(lengths), 300)))
    expected = {n + 2: threads if n in (500, 400, 280) else 1 for n in lengths}
    assert dict(zip(model.sizes, model.threads, strict=True)) == expected


def out_of_memory_over(limit: int) -> Callable[..., None]:
    def act(tokens: torch.Tensor, rows: torch.Tensor) -> None:
        if len(tokens) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return act


@pytest.mark.parametrize("policy", [TRUNCATE, WINDOW])
@pytest.mark.parametrize("limit", [130, 400, 1500])
def test_out_of_memory_halves_batches_and_changes_no_bit(limit, policy):
    lengths = [*range(128 if policy is TRUNCATE else 600, 20, -9)]
    sequences, wanted = [POOL[n] for n in lengths], outputs(per_residue=True)
    expected = embed(SMALL[0], sequences, 4096, 1, policy, wanted)
    model = StandIn(out_of_memory_over(limit), model_of(SMALL[0]))
    runner = runner_of(model, len(sequences), wanted)
    rows, residues = gather(runner.run(pack(sequences, 4096, policy)), len(sequences))
    assert rows.tobytes() == expected[0].tobytes()
    assert [own.tobytes() for own in residues] == [own.tobytes() for own in expected[1]]
    # What was learnt holds: each size failed once, and nothing that large is tried again.
    failed = [size for size in model.sizes if size > limit]
    assert failed == sorted(set(failed), reverse=True) and len(failed) <= 6


def test_a_sequence_that_is_too_long_alone_is_left_for_a_fresh_process(tmp_path):
    sequences = [POOL[n] for n in (900, 800, 120, 110, 100)]
    tracker, model = tracker_of(5, tmp_path), StandIn(out_of_memory_over(500))
    parts = list(runner_of(model, 5, outputs(), tracker).run(pack(sequences, 2048)))
    assert positions_of(parts) == [2, 3, 4]
    assert tracker.given_up == {0, 1} and not tracker.known.quarantined
    with pytest.raises(FreshProcessError, match="2 sequences failed, .*OutOfMemoryError"):
        tracker.finish()
    suspects = read_failures(tmp_path).suspects
    assert [*suspects] == [0, 1]
    assert all((s.failed, s.tries, s.memory) == (True, 0, True) for s in suspects.values())


def fail_with(error: Exception, token: int | None = None) -> Callable[..., None]:
    """Raise in each batch, or in those that hold a token."""

    def act(tokens: torch.Tensor, rows: torch.Tensor) -> None:
        if token is None or (tokens == token).any():
            raise error

    return act


def test_a_batch_that_raises_is_tried_sequence_by_sequence(tmp_path):
    sequences = [POOL[n] for n in range(60, 20, -1)]
    sequences[17] += "U"
    tracker, model = tracker_of(40, tmp_path), StandIn(fail_with(IndexError("out of range"), U))
    parts = list(runner_of(model, 40, outputs(), tracker).run(pack(sequences, 4096)))
    assert positions_of(parts) == [n for n in range(40) if n != 17]
    assert len(model.sizes) == 1 + 40
    with pytest.raises(FreshProcessError, match="IndexError: out of range"):
        tracker.finish()


def test_a_model_that_always_raises_ends_the_run(tmp_path):
    tracker, model = tracker_of(400, tmp_path), StandIn(fail_with(ValueError("a bug")))
    with pytest.raises(NotTheSequencesError, match="10 sequences in a row failed.*a bug") as caught:
        list(runner_of(model, 400, outputs(), tracker).run(pack([POOL[30]] * 400, 4096)))
    assert isinstance(caught.value.__cause__, ValueError)
    assert len(model.sizes) == 1 + MAX_IN_A_ROW
    left = read_failures(tmp_path)
    assert (left.suspects, left.quarantined) == ({}, {})


def test_a_broken_gpu_ends_the_process_and_in_flight_names_the_batch(tmp_path):
    model = StandIn(fail_with(torch.AcceleratorError("CUDA error: launch failure")))
    with pytest.raises(torch.AcceleratorError):
        list(runner_of(model, 3, outputs(), tracker_of(3, tmp_path)).run(pack([POOL[30]] * 3, 64)))
    assert '"steps": [[0, 1, 2]]' in (tmp_path / "in_flight.json").read_text()
