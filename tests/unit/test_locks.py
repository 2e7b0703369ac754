"""A folder is one worker's at a time, and a worker that waits goes on when the other is gone."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import worker_runs
from worker_runs import WorkerProcess

from seqembed.checkpoints.blocks import list_blocks
from seqembed.errors import InterruptedRun
from seqembed.storage import locks
from seqembed.storage.locks import lock_folder, wait_for_lock

LOGGER = logging.getLogger("seqembed.tests")


def stay() -> None:
    """No signal came."""


def hold_until_killed(folder: Path, ready: Any) -> None:
    with lock_folder(folder, stay, LOGGER):
        ready.set()
        time.sleep(600)


@pytest.mark.timing
def test_a_folder_is_locked_until_its_holder_is_killed(tmp_path, caplog, context):
    caplog.set_level(logging.INFO, "seqembed.tests")
    ready = context.Event()
    holder = context.Process(target=hold_until_killed, args=(tmp_path / "new", ready))
    holder.start()
    assert ready.wait(30)
    began = time.monotonic()
    threading.Timer(0.5, holder.kill).start()
    with lock_folder(tmp_path / "new", stay, LOGGER) as locked:
        assert locked and time.monotonic() - began >= 0.5
    holder.join()
    assert caplog.text.count("another worker, perhaps of a killed run, is at work") == 1


def test_a_signal_ends_the_wait(tmp_path):
    def leave() -> None:
        raise InterruptedRun("asked")

    with (
        lock_folder(tmp_path, stay, LOGGER),
        pytest.raises(InterruptedRun),
        lock_folder(tmp_path, leave, LOGGER),
    ):
        raise AssertionError("held twice")


def test_a_wait_is_logged_at_first_and_each_minute(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "seqembed.tests")
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    monkeypatch.setattr(locks, "POLL_SECONDS", 0)
    tries = iter([None] * 5 + ["lock"])
    assert wait_for_lock(lambda: next(tries), "100% busy", stay, LOGGER) == "lock"
    assert caplog.messages == ["waiting: 100% busy"] * 2


@pytest.mark.parametrize("made_again", [False, True])
def test_a_lock_on_a_folder_that_was_removed_before_it_came_does_not_count(
    made_again, tmp_path, monkeypatch
):
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)
    folder, flock, calls = tmp_path / "folder", fcntl.flock, []

    def remove_first(*arguments: Any) -> None:
        calls.append(None)
        if len(calls) == 1:
            folder.rename(tmp_path / "removed")
            if made_again:
                folder.mkdir()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with lock_folder(folder, stay, LOGGER) as locked:
        assert locked and folder.is_dir() and len(calls) == 2


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, caplog):
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_folder(tmp_path, stay, LOGGER) as locked:
        assert not locked
    message = f"{tmp_path}: cannot be locked (No locks available): nothing keeps two runs from"
    assert f"{message} writing there" in caplog.text


@pytest.mark.timing
def test_a_second_worker_of_a_shard_waits_and_computes_nothing(project, context):
    first = WorkerProcess(context, project, worker_runs.slow_batches)
    deadline = time.monotonic() + 60
    while not list(project.results.glob("checkpoints/*/shard_0/batch_*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = WorkerProcess(context, project)
    assert first.finish().status["computed"] == len(worker_runs.SEQUENCES)
    assert second.finish().status["computed"] == 0
    assert "waiting: another worker" in project.log.read_text()


@pytest.mark.timing
def test_without_locks_two_workers_do_no_harm_and_double_work_is_logged(project, context):
    fault = worker_runs.slow_batches_without_locks
    workers = [WorkerProcess(context, project, fault) for _ in range(2)]
    counts = [worker.finish().status["computed"] for worker in workers]
    alone = WorkerProcess(context, project)
    assert alone.finish().status["resumed_sequences"] == len(worker_runs.SEQUENCES)
    double = sum(counts) - len(worker_runs.SEQUENCES)
    assert double > 0 and f"{double} sequences were computed twice" in project.log.read_text()


def test_without_locks_files_of_another_worker_are_not_removed(project, context):
    assert WorkerProcess(context, project).finish().exit_code == 0
    others = project.checkpoints() / f".batch_00009.safetensors.{'0f' * 16}.tmp"
    others.touch()
    for fault, stays in ((worker_runs.without_locks, True), (None, False)):
        assert WorkerProcess(context, project, fault).finish().exit_code == 0
        assert others.exists() == stays


def test_without_locks_blocks_stay_until_a_worker_has_the_lock(project, context):
    worker = WorkerProcess(context, project, worker_runs.without_locks)
    assert worker.finish().exit_code == 0
    folder = project.checkpoints()
    assert list_blocks(folder) and (folder / "shard_0.h5").exists()
    before = project.content()
    worker = WorkerProcess(context, project)
    assert worker.finish().status["resumed_sequences"] == len(worker_runs.SEQUENCES)
    assert list_blocks(folder) == [] and project.content() == before
