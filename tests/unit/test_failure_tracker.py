"""What a failure tracker learns from crashes and failed batches, and what it saves."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqembed.checkpoints.manifest_and_failures import (
    Failures,
    Suspect,
    read_failures,
    write_failures,
)
from seqembed.errors import (
    BlockMemoryError,
    CheckpointError,
    ModelError,
    NotTheSequencesError,
    WorkerCrashError,
)
from seqembed.inference.batches import RawBatch, VarlenCollator
from seqembed.inference.failure_tracker import (
    MAX_IN_A_ROW,
    MAX_TOO_LONG_IN_A_ROW,
    TRIES,
    FailureTracker,
)
from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.vocabularies import ESM
from seqembed.settings.lengths import LengthPolicy
from seqembed.storage.json_files import write_json

LOGGER = logging.getLogger("seqembed.tests")
COUNT = 128
DIGESTS = np.arange(16 * COUNT, dtype=np.uint16).view(np.uint8)[: 16 * COUNT].reshape(-1, 16)
POLICY = LengthPolicy(long_sequences="window", max_length=100)
CRASH = {"reason": "the worker was killed by SIGSEGV", "memory": False}
KILLED = {"reason": "the worker was killed by the kernel: out of memory", "memory": True}


def open_tracker(folder: Path, crash: dict[str, Any] | None = None) -> FailureTracker:
    """The tracker of a fresh process, after the last process ended with `crash`."""
    tracker = FailureTracker(folder, DIGESTS, "sequence {}".format, LOGGER)
    tracker.record_crash(crash)
    tracker.start(range(COUNT), lambda: None)
    return tracker


def batch_of(*rows: int, length: int = 50) -> Any:
    collate = VarlenCollator(ResidueTokenizer(ESM).encode_all, POLICY)
    return collate(RawBatch(np.array(rows), [b"M" * length for _ in rows]))


def crash_at(folder: Path, *batches: Any, crash: dict[str, Any] = CRASH) -> FailureTracker:
    """A process computes these batches and crashes in the last; the tracker of the next one."""
    tracker = open_tracker(folder)
    for batch in batches[:-1]:
        tracker.note_in_flight([batch])
        tracker.note_in_flight([])
        tracker.record_success(np.array(batch.positions))
    tracker.note_in_flight([batches[-1]])
    return open_tracker(folder, crash)


def hex_of(row: int) -> str:
    return DIGESTS[row].tobytes().hex()


def test_untrusted_weights_leave_no_failures(tmp_path):
    tracker = open_tracker(tmp_path)

    def refuse() -> None:
        raise ModelError("the weights rotted")

    tracker.start(range(COUNT), refuse)
    for learn in (
        lambda: tracker.quarantine(3, "its values are too large", in_doubt=False),
        lambda: tracker.handle_failure(batch_of(4), RuntimeError("no"), alone=True),
    ):
        with pytest.raises(ModelError, match="rotted"):
            learn()
        assert read_failures(tmp_path) == Failures()


def test_a_run_without_failures_leaves_no_file(tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.note_in_flight([batch_of(1, 2)])
    assert tracker.known == Failures()
    tracker.finish()
    assert list(tmp_path.iterdir()) == []


def test_after_a_crash_each_sequence_is_tried_alone_until_one_crashed_twice(tmp_path):
    tracker = crash_at(tmp_path, batch_of(8, 9, 10, 11, 12))
    assert [*tracker.suspects] == [8, 9, 10, 11, 12]
    assert tracker.find_suspect(batch_of(9)) and not tracker.find_suspect(batch_of(9, 10))
    tracker = crash_at(tmp_path, batch_of(8), batch_of(9), batch_of(10))
    assert [*tracker.suspects] == [10, 8, 9, 11, 12]
    assert (tracker.suspects[10].failed, tracker.suspects[10].tries) == (True, 1)
    tracker = crash_at(tmp_path, batch_of(10))
    assert set(tracker.known.quarantined) == {hex_of(10)} and tracker.given_up == {10}
    assert [*tracker.suspects] == [8, 9, 11, 12]
    assert open_tracker(tmp_path).given_up == {10}


def test_only_failures_before_anything_else_count(tmp_path):
    for _ in range(5):
        tracker = crash_at(tmp_path, batch_of(1, 2, 3), batch_of(20))
        assert not tracker.known.quarantined
    for _ in range(TRIES):
        assert [*tracker.suspects][0] == 20
        tracker = crash_at(tmp_path, batch_of(20))
    assert set(tracker.known.quarantined) == {hex_of(20)}


def test_all_batches_in_flight_are_suspected(tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.note_in_flight([batch_of(4), batch_of(30, 31)])
    assert [*open_tracker(tmp_path, CRASH).suspects] == [4, 30, 31]


def test_a_suspect_that_failed_alone_is_retried(tmp_path):
    tracker = crash_at(tmp_path, batch_of(5, 6))
    tracker = crash_at(tmp_path, batch_of(5))
    for batch, retrying in ((batch_of(5), True), (batch_of(6), False), (batch_of(7), False)):
        tracker.note_in_flight([batch])
        assert tracker.retrying is retrying


@pytest.mark.parametrize("crash", [CRASH, KILLED])
def test_a_crash_between_batches_is_an_error(crash, tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.note_in_flight([batch_of(1, 2)])
    tracker.note_in_flight([])
    for _ in range(2):
        with pytest.raises(WorkerCrashError, match=f"^{crash['reason']} while no sequence"):
            open_tracker(tmp_path, crash)


def test_an_end_that_was_no_crash_blames_no_sequence(tmp_path):
    open_tracker(tmp_path).note_in_flight([batch_of(1, 2)])
    assert not open_tracker(tmp_path).suspects
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("batches", "limit"),
    [
        ([batch_of(1, 2, 3, 4)], 4 * 52 // 2),
        # Two windows of one sequence may go one by one.
        ([batch_of(5, length=130)], 2 * 102 // 2),
        # Beside others: each alone from now on, and no larger.
        ([batch_of(1, 2, 3), batch_of(4)], 3 * 52),
    ],
)
def test_a_kill_out_of_memory_lowers_the_token_limit(batches, limit, tmp_path):
    open_tracker(tmp_path).note_in_flight(batches)
    tracker = open_tracker(tmp_path, KILLED)
    assert (tracker.known.token_limit, tracker.suspects) == (limit, {})


def test_a_failure_beside_others_does_not_raise_the_limit(tmp_path):
    tracker, batch, error = open_tracker(tmp_path), batch_of(1, 2, 3, 4), MemoryError("no room")
    for alone, limit in ((False, 4 * 52), (True, 2 * 52), (False, 2 * 52)):
        assert tracker.handle_failure(batch, error, alone=alone) == [batch]
        assert tracker.known.token_limit == limit


@pytest.mark.parametrize(
    ("rows", "limit", "tried"),
    # Of 52 tokens each, in blocks of 100: three blocks, two, and one, which is not cut.
    [(range(5), 200, 1), (range(3), 100, 1), (range(1), None, 0)],
)
def test_on_a_gpu_a_batch_is_not_cut_below_a_block(rows, limit, tried, tmp_path):
    tracker = FailureTracker(tmp_path, DIGESTS, str, LOGGER, block=100)
    tracker.start(range(COUNT), lambda: None)
    parts = tracker.handle_failure(batch_of(*rows), MemoryError("no room"), alone=True)
    assert (len(parts), tracker.known.token_limit) == (tried, limit)


def open_even(folder: Path) -> FailureTracker:
    """Of batches on a GPU, which all need as much memory if they are of one block of 104 rows."""
    tracker = FailureTracker(folder, DIGESTS, str, LOGGER, block=104, even=True)
    tracker.start(range(COUNT), lambda: None)
    return tracker


@pytest.mark.parametrize("earlier", [None, 50, 104, 208])
@pytest.mark.parametrize("rows", [(1,), (1, 2)])
def test_on_a_gpu_without_room_for_a_block_no_sequence_is_blamed(rows, earlier, tmp_path):
    write_failures(tmp_path, Failures(token_limit=earlier))
    batch, error = batch_of(*rows), torch.OutOfMemoryError("no room")
    # Once more, when graphs are gone.
    for tracker in (open_even(tmp_path), open_even(tmp_path)):
        assert tracker.handle_failure(batch, error, alone=True) == [batch]
        with pytest.raises(BlockMemoryError, match="104 rows.*no sequence is at fault"):
            tracker.handle_failure(batch, error, alone=True)
        assert not tracker.suspects and not tracker.given_up
        assert tracker.known.token_limit == earlier


def test_on_a_gpu_a_passing_want_of_memory_costs_nothing(tmp_path):
    tracker, error = open_even(tmp_path), torch.OutOfMemoryError("no room")
    for row in range(1, 9):
        batch = batch_of(row)
        assert tracker.handle_failure(batch, error, alone=True) == [batch]
        tracker.record_success(np.array([row]))
    assert tracker.known == Failures()


@pytest.mark.parametrize(
    ("even", "error"),
    # Biases of plain steps, and the memory of the machine, follow the sequences.
    [(False, torch.OutOfMemoryError("no room")), (True, MemoryError("no room"))],
)
def test_on_a_gpu_other_sequences_of_a_block_are_tried_alone(even, error, tmp_path):
    tracker = FailureTracker(tmp_path, DIGESTS, str, LOGGER, block=104, even=even)
    tracker.start(range(COUNT), lambda: None)
    parts = tracker.handle_failure(batch_of(1, 2), error, alone=True)
    assert [part.positions for part in parts] == [[1], [2]]
    assert tracker.handle_failure(parts[0], error, alone=True) == []
    assert [*tracker.suspects] == [1] and tracker.suspects[1].memory


def test_on_a_gpu_kills_for_want_of_memory_come_to_an_end(tmp_path):
    """Two batches are always in flight there, and a limit of a block cannot fall."""
    ends = []
    for _ in range(4):
        tracker = open_even(tmp_path)
        tracker.note_in_flight([batch_of(1, 2), batch_of(3, 4)])
        tracker = open_even(tmp_path)
        tracker.record_crash(KILLED)
        ends.append((tracker.known.token_limit, [*tracker.known.suspects]))
    assert ends == [(104, []), *[(104, [1, 2, 3, 4])] * 3]


def test_on_a_gpu_a_sequence_of_several_blocks_out_of_memory_is_to_blame(tmp_path):
    tracker = FailureTracker(tmp_path, DIGESTS, str, LOGGER, block=51, even=True)
    tracker.start(range(COUNT), lambda: None)
    assert tracker.handle_failure(batch_of(1), torch.OutOfMemoryError(), alone=True) == []
    assert [*tracker.suspects] == [1] and tracker.suspects[1].memory


def test_a_sequence_killed_out_of_memory_is_tried_last(tmp_path):
    crash_at(tmp_path, batch_of(7), crash=KILLED)
    tracker = crash_at(tmp_path, batch_of(9, 10))
    assert [*tracker.suspects] == [9, 10, 7] and tracker.suspects[7].memory


def test_a_computed_sequence_is_no_suspect(tmp_path):
    tracker = crash_at(tmp_path, batch_of(8, 9, 10, 11))
    tracker.record_success(np.array([8, 9, 10]))
    assert [*tracker.suspects] == [11]
    tracker.start([8, 9, 10], lambda: None)
    tracker.finish()


@pytest.mark.parametrize(
    ("crash", "most"), [(CRASH, MAX_IN_A_ROW), (KILLED, MAX_TOO_LONG_IN_A_ROW)]
)
def test_too_many_failures_in_a_row_end_the_run(crash, most, tmp_path):
    known = Failures(quarantined={hex_of(100): "r"}, token_limit=900)
    write_failures(tmp_path, known)
    for row in range(most - 1):
        crash_at(tmp_path, batch_of(row), crash=crash)
    assert len(read_failures(tmp_path).in_a_row) == most - 1
    with pytest.raises(NotTheSequencesError, match=f"^{most} sequences in a row failed"):
        crash_at(tmp_path, batch_of(most), crash=crash)
    assert read_failures(tmp_path) == known


def test_a_success_ends_the_failures_in_a_row(tmp_path):
    for row in range(3 * MAX_IN_A_ROW):
        crash_at(tmp_path, batch_of(40 + row), batch_of(row))
    assert len(read_failures(tmp_path).suspects) == 3 * MAX_IN_A_ROW


def test_what_was_learnt_survives_a_kill(tmp_path):
    tracker = open_tracker(tmp_path)
    assert len(tracker.handle_failure(batch_of(1, 2), MemoryError(), alone=True)) == 1
    assert open_tracker(tmp_path).known.token_limit == 2 * 52 // 2
    assert tracker.handle_failure(batch_of(3), ValueError("bad"), alone=True) == []
    assert [*open_tracker(tmp_path).suspects] == [3]
    tracker.record_success(np.array([5]))
    assert read_failures(tmp_path).in_a_row == {}
    tracker.quarantine(4, "it is not finite", in_doubt=False)
    assert open_tracker(tmp_path).given_up == {4}


def test_failures_come_back_as_written(tmp_path):
    failures = Failures(
        token_limit=77,
        suspects={1: Suspect(reason="a\nb", failed=True, tries=1, memory=True)},
        quarantined={hex_of(3): "é"},
        in_a_row={hex_of(3): False},
    )
    write_failures(tmp_path, failures)
    assert read_failures(tmp_path) == failures


def test_ranges_of_earlier_versions_are_tried_row_by_row(tmp_path):
    entry = {"reason": "r", "failed": False, "tries": 0, "memory": False}
    suspects = [
        entry | {"first": 4, "last": 7},
        entry | {"first": 6, "last": 6, "failed": True, "tries": 1},
    ]
    content = {"token_limit": None, "suspects": suspects, "quarantined": {}, "doubts": []}
    write_json(tmp_path / "failures.json", "failures", "1", content)
    assert [*open_tracker(tmp_path).suspects] == [6, 4, 5, 7]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format_version": "2", "kind": "failures"}',
        '{"format_version": "1", "kind": "checkpoint"}',
        '{"format_version": "1", "kind": "failures", "quarantined": {"zz": "r"}}',
        '{"format_version": "1", "kind": "failures", "checksum": "of something else"}',
    ],
)
def test_a_damaged_file_is_named(text, tmp_path):
    (tmp_path / "failures.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/failures.json: damaged .*remove it"):
        read_failures(tmp_path)
