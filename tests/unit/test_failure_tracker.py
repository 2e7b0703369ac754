"""What is learnt of a failure: from a crash, step by step, and what is kept of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqembed.checkpoints.failures import (
    Failures,
    LoneFailure,
    Suspect,
    read_failures,
    write_failures,
)
from seqembed.errors import (
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
from seqembed.models.encoders.tokenization import Esm2Tokenizer
from seqembed.settings.lengths import LengthPolicy

LOGGER = logging.getLogger("seqembed.tests")
COUNT = 128
DIGESTS = np.arange(16 * COUNT, dtype=np.uint16).view(np.uint8)[: 16 * COUNT].reshape(-1, 16)
POLICY = LengthPolicy(long_sequences="window", max_length=100)
CRASH = {"reason": "the worker was killed by SIGSEGV", "memory": False}
KILLED = {"reason": "the worker was killed by the kernel, for want of memory", "memory": True}


def open_trials(folder: Path, crash: dict[str, Any] | None = None) -> FailureTracker:
    """Of a fresh process, the last one having ended so."""
    trials = FailureTracker(folder, DIGESTS, "sequence {}".format, LOGGER)
    trials.record_crash(crash)
    trials.start(range(COUNT), lambda: None)
    return trials


def batch_of(*positions: int, length: int = 50) -> Any:
    residues = [b"M" * length for _ in positions]
    collate = VarlenCollator(Esm2Tokenizer().encode, POLICY)
    return collate(RawBatch(np.array(positions), residues))


def crash_at(folder: Path, *steps: Any, crash: dict[str, Any] = CRASH) -> FailureTracker:
    """A process that does these steps and ends in the last; what the next one makes of it."""
    trials = open_trials(folder)
    for step in steps[:-1]:
        trials.note_in_flight([step])
        trials.note_in_flight([])
        trials.record_success(np.array(step.positions))
    trials.note_in_flight([steps[-1]])
    return open_trials(folder, crash)


def places(trials: FailureTracker) -> list[tuple[int, int]]:
    return [(suspect.first, suspect.last) for suspect in trials.suspects]


def hex_of(position: int) -> str:
    return DIGESTS[position].tobytes().hex()


def test_nothing_is_written_down_of_a_model_that_is_not_what_it_should_be(tmp_path):
    trials = open_trials(tmp_path)

    def refuse() -> None:
        raise ModelError("the weights rotted")

    trials.start(range(COUNT), refuse)
    for learn in (
        lambda: trials.quarantine(3, "its values are too large", in_doubt=False),
        lambda: trials.handle_failure(batch_of(4), RuntimeError("no"), memory=False, alone=True),
    ):
        with pytest.raises(ModelError, match="rotted"):
            learn()
        assert read_failures(tmp_path) == Failures()


def test_nothing_is_known_at_first(tmp_path):
    trials = open_trials(tmp_path)
    assert (trials.suspects, trials.token_limit, set(trials.quarantined)) == ([], None, set())
    trials.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_crash_halves_what_was_at_work_until_one_is_left(tmp_path):
    trials = crash_at(tmp_path, batch_of(8, 9, 10, 11, 12))
    assert places(trials) == [(8, 10), (11, 12)]
    trials = crash_at(tmp_path, batch_of(8, 9, 10))
    assert places(trials) == [(10, 10), (11, 12), (8, 9)]
    trials = crash_at(tmp_path, batch_of(10))
    assert [(s.first, s.failed, s.tries) for s in trials.suspects if s.alone] == [(10, True, 1)]
    trials = crash_at(tmp_path, batch_of(10))
    assert set(trials.quarantined) == {hex_of(10)} and trials.given_up == {10}
    assert (10, 10) not in places(trials)
    assert open_trials(tmp_path).given_up == {10}


def test_only_what_fails_first_in_a_process_counts(tmp_path):
    for _ in range(5):
        trials = crash_at(tmp_path, batch_of(1, 2, 3), batch_of(20))
        assert not trials.quarantined
    # What failed alone comes first then, and counts.
    for _ in range(TRIES):
        assert places(trials)[0] == (20, 20)
        trials = crash_at(tmp_path, batch_of(20))
    assert set(trials.quarantined) == {hex_of(20)}


def test_batches_that_were_on_their_way_together_are_suspected_both(tmp_path):
    trials = open_trials(tmp_path)
    trials.note_in_flight([batch_of(4), batch_of(30, 31)])
    assert places(open_trials(tmp_path, CRASH)) == [(4, 4), (30, 30), (31, 31)]


@pytest.mark.parametrize("crash", [CRASH, KILLED])
def test_a_crash_when_no_sequence_was_at_work_is_told(crash, tmp_path):
    trials = open_trials(tmp_path)
    trials.note_in_flight([batch_of(1, 2)])
    trials.note_in_flight([])
    with pytest.raises(WorkerCrashError, match=f"^{crash['reason']}, and no sequence was at work"):
        open_trials(tmp_path, crash)
    with pytest.raises(WorkerCrashError):
        open_trials(tmp_path, crash)


def test_an_end_that_was_no_crash_blames_nobody(tmp_path):
    open_trials(tmp_path).note_in_flight([batch_of(1, 2)])
    assert not open_trials(tmp_path).suspects
    assert list(tmp_path.iterdir()) == []


def test_a_kill_for_want_of_memory_halves_the_steps_of_the_shard(tmp_path):
    trials = crash_at(tmp_path, batch_of(1, 2, 3, 4), crash=KILLED)
    assert (trials.token_limit, trials.suspects) == (4 * 52 // 2, [])
    # Of one sequence in several windows, too: they may go one by one.
    trials = crash_at(tmp_path, batch_of(5, length=130), crash=KILLED)
    assert trials.suspects == []
    assert trials.token_limit == 2 * 102 // 2


def test_of_batches_that_were_on_their_way_together_the_largest_is_the_limit(tmp_path):
    open_trials(tmp_path).note_in_flight([batch_of(1, 2, 3), batch_of(4)])
    assert open_trials(tmp_path, KILLED).token_limit == 3 * 52


def test_what_fails_beside_others_raises_no_limit(tmp_path):
    trials, step, error = open_trials(tmp_path), batch_of(1, 2, 3, 4), MemoryError("no room")
    for alone, limit in ((False, 4 * 52), (True, 2 * 52), (False, 2 * 52)):
        assert trials.handle_failure(step, error, memory=True, alone=alone) == [step]
        assert trials.token_limit == limit


def test_what_is_killed_for_want_of_memory_alone_comes_last(tmp_path):
    trials = crash_at(tmp_path, batch_of(7), crash=KILLED)
    trials = crash_at(tmp_path, batch_of(9, 10))
    assert places(trials) == [(9, 9), (10, 10), (7, 7)]
    assert trials.suspects[-1].memory


def test_whoever_passed_is_no_suspect(tmp_path):
    trials = crash_at(tmp_path, batch_of(8, 9, 10, 11))
    trials.record_success(np.array([8, 9, 10]))
    assert places(trials) == [(10, 11)]
    trials.record_success(np.array([11]))
    trials.finish()


@pytest.mark.parametrize(
    ("crash", "most"), [(CRASH, MAX_IN_A_ROW), (KILLED, MAX_TOO_LONG_IN_A_ROW)]
)
def test_too_many_in_a_row_are_not_to_blame(crash, most, tmp_path):
    for position in range(most - 1):
        crash_at(tmp_path, batch_of(position), crash=crash)
    assert len(read_failures(tmp_path).doubts) == most - 1
    with pytest.raises(NotTheSequencesError, match=f"^{most} sequences in a row failed"):
        crash_at(tmp_path, batch_of(most), crash=crash)
    assert read_failures(tmp_path) == Failures()


def test_what_passes_between_ends_the_doubts(tmp_path):
    for position in range(3 * MAX_IN_A_ROW):
        crash_at(tmp_path, batch_of(40 + position), batch_of(position))
    assert len(read_failures(tmp_path).suspects) == 3 * MAX_IN_A_ROW


def test_earlier_quarantines_outlive_a_doubtful_row(tmp_path):
    write_failures(tmp_path, Failures(quarantined={hex_of(50): "r"}, token_limit=900))
    for position in range(MAX_IN_A_ROW - 1):
        crash_at(tmp_path, batch_of(position))
    with pytest.raises(NotTheSequencesError):
        crash_at(tmp_path, batch_of(30))
    assert read_failures(tmp_path) == Failures(quarantined={hex_of(50): "r"}, token_limit=900)


def test_what_was_learnt_outlives_a_kill_at_the_next_step(tmp_path):
    trials = open_trials(tmp_path)
    assert len(trials.handle_failure(batch_of(1, 2), MemoryError(), memory=True, alone=True)) == 1
    assert open_trials(tmp_path).token_limit == 2 * 52 // 2
    assert trials.handle_failure(batch_of(3), ValueError("bad"), memory=False, alone=True) == []
    assert places(open_trials(tmp_path)) == [(3, 3)]
    trials.record_success(np.array([5]))
    assert read_failures(tmp_path).doubts == []
    trials.quarantine(4, "it is not finite", in_doubt=False)
    assert open_trials(tmp_path).given_up == {4}


def test_failures_come_back_as_written(tmp_path):
    failures = Failures(
        token_limit=77,
        suspects=[Suspect(first=1, last=4, reason="a\nb", failed=True, tries=1, memory=True)],
        quarantined={hex_of(3): "é"},
        doubts=[LoneFailure(digest=hex_of(3), memory=False)],
    )
    write_failures(tmp_path, failures)
    assert read_failures(tmp_path) == failures


def test_a_flipped_bit_in_it_is_noticed(tmp_path):
    write_failures(tmp_path, Failures(quarantined={hex_of(3): "r"}))
    path = tmp_path / "failures.json"
    path.write_text(path.read_text().replace(hex_of(3), hex_of(4)))
    with pytest.raises(CheckpointError, match="damaged since it was written"):
        read_failures(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format_version": "2", "kind": "failures"}',
        '{"format_version": "1", "kind": "checkpoint"}',
        '{"format_version": "1", "kind": "failures", "quarantined": {"zz": "r"}}',
    ],
)
def test_a_damaged_file_is_named(text, tmp_path):
    (tmp_path / "failures.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/failures.json: damaged .*remove it"):
        read_failures(tmp_path)
