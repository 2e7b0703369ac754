"""The sequences are split anew while a worker of the old split is at work, or waits."""

from __future__ import annotations

import fcntl
import shutil
import time
from pathlib import Path

import pytest
import worker_runs
from worker_runs import Project, WorkerProcess, make_project, make_sequences

from seqembed.checkpoints.saved_rows import read_all_saved

SEQUENCES = make_sequences([60 + n for n in range(30)])
# The same in another order, because two longer ones come before them.
EDITED = [*make_sequences([95, 96], seed=2), *SEQUENCES[:28]]


@pytest.fixture
def begun(tmp_path, prepared_model, context) -> Project:
    """A project whose first worker was killed after a block."""
    project = make_project(tmp_path / "begun", prepared_model, SEQUENCES)
    WorkerProcess(context, project, worker_runs.killed_after_a_block).finish()
    return project


def replace_index(project: Project, folder: Path) -> None:
    """Put the index of the edited sequences in place of the project's, as another run does."""
    edited = make_project(folder, project.model, EDITED)
    shutil.rmtree(project.results / "index")
    shutil.copytree(edited.results / "index", project.results / "index")


def rows_by_digest(folder: Path) -> dict[bytes, bytes]:
    return {
        digest.tobytes(): row.tobytes()
        for saved in read_all_saved(folder)
        for digest, row in zip(saved.digests, saved.rows, strict=True)
    }


def test_a_worker_that_waited_while_the_index_was_replaced_computes_nothing(
    begun, tmp_path, context
):
    whole = make_project(tmp_path / "whole", begun.model, SEQUENCES)
    assert WorkerProcess(context, whole).finish().status["status"] == "complete"
    right = rows_by_digest(whole.checkpoints())
    (base,) = begun.results.glob("checkpoints/*")
    with open(base / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        worker = WorkerProcess(context, begun)
        deadline = time.monotonic() + 60
        while not (begun.log.exists() and "waiting: another worker" in begun.log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        before = rows_by_digest(base / "shard_0")
        replace_index(begun, tmp_path / "edited")
    outcome = worker.finish()
    assert (outcome.exit_code, outcome.status["status"]) == (1, "failed")
    assert "the sequences were split anew" in outcome.status["error_message"]
    assert rows_by_digest(base / "shard_0") == before
    assert before.items() <= right.items()


def test_a_shard_of_the_new_split_is_not_replaced_by_one_of_the_old(begun, tmp_path, context):
    """The index is replaced after the last batch."""
    shutil.copytree(begun.results / "index", tmp_path / "old")
    edited = make_project(tmp_path / "edited", begun.model, EDITED)
    shutil.copy(edited.index(), begun.results / "edited.parquet")
    outcome = WorkerProcess(context, begun, worker_runs.split_anew_at_the_end).finish()
    assert "the sequences were split anew" in outcome.status["error_message"]
    assert not (begun.output / "shard_0.h5").exists()
    # With the old index, the finished shard is there.
    shutil.rmtree(begun.results / "index")
    shutil.copytree(tmp_path / "old", begun.results / "index")
    again = WorkerProcess(context, begun).finish()
    assert (again.status["status"], again.status["computed"]) == ("complete", 0)
