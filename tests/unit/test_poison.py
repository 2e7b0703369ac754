"""Sequences that the model fails at, under the real supervisor: processes, files and quarantine."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import pytest
import torch
from worker_runs import (
    EMBEDDING,
    Project,
    WorkerProcess,
    before_each_batch,
    forget,
    make_project,
    make_sequences,
)

from seqembed import gpu_worker
from seqembed.checkpoints.manifest_and_failures import read_failures
from seqembed.checkpoints.merge import merge, remove_merged
from seqembed.environment import EnvConfig
from seqembed.errors import WorkerError
from seqembed.index.reader import read_shard_index
from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.vocabularies import ESM
from seqembed.results.quarantine import write_quarantine
from seqembed.results.reader import open_embeddings
from seqembed.storage.digests import digest
from seqembed.supervisor import Supervisor
from seqembed.worker.events import events_path, read_events

LOGGER = logging.getLogger("seqembed.tests")
ENVIRONMENT = EnvConfig.from_environ({"CUDA_VISIBLE_DEVICES": ""})
# Nothing else holds a U: it tells the faults below which sequence is the poison.
POISON = make_sequences([45], seed=9)[0] + "U"
U = int(ResidueTokenizer(ESM).encode(b"U")[1])
GOOD = make_sequences([1, 7, 300, *range(30, 90, 2)], seed=5)
CONFIG = {"token_budget": 512, "checkpoint_seq_threshold": 1000}


# Faults: called in the worker's process before it begins.


def crashes(batches: Path | None = None) -> None:
    """SIGSEGV at the poison; the process and the tokens of each other batch go to `batches`."""

    def act(tokens: Any) -> None:
        if (tokens == U).any():
            # To this thread: it goes no further.
            signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)
        if batches:
            with batches.open("a") as file:
                file.write(f"{os.getpid()} {bytes(tokens.tolist()).hex()}\n")

    before_each_batch(act)


def fails_at_the_poison(error: Exception) -> None:
    def act(tokens: Any) -> None:
        if (tokens == U).any():
            raise error

    before_each_batch(act)


def has_memory_for_200_tokens() -> None:
    def act(tokens: Any) -> None:
        if len(tokens) > 200:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    before_each_batch(act)


def is_killed(number: int) -> None:
    os.kill(os.getpid(), number)


def is_killed_in_each_batch(number: int) -> None:
    before_each_batch(lambda tokens: is_killed(number))


def crashes_with_the_model() -> None:
    gpu_worker._load_model = lambda *_: is_killed(signal.SIGSEGV)  # type: ignore


ILLEGAL = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
BREAKS_THE_GPU = partial(fails_at_the_poison, ILLEGAL)
RAISES = partial(fails_at_the_poison, IndexError("index out of range in self"))


def work(fault: Callable[[], None] | None, target: Any, _: int, *arguments: Any) -> None:
    """Run the supervisor's own `target` in the child, after the fault."""
    if fault:
        fault()
    # This process has another parent than the supervisor: the server that forks processes.
    target(os.getppid(), *arguments)


@pytest.fixture
def supervise(context, monkeypatch, restored_process) -> Callable[..., dict[str, Any]]:
    """Runs a Supervisor whose workers have a fault; `codes` gives their exit codes."""

    def run(project: Project, fault: Any = None, **changes: Any) -> dict[str, Any]:
        run.workers = []

        def make_worker(target: Any, args: Sequence[Any]) -> Any:
            run.workers.append(context.Process(target=work, args=(fault, target, *args)))
            return run.workers[-1]

        faulty = SimpleNamespace(Queue=context.Queue, Event=context.Event, Process=make_worker)
        monkeypatch.setattr("multiprocessing.get_context", lambda method: faulty)
        given = (project.index(), project.output, project.config(**CONFIG | changes))
        return Supervisor(LOGGER, ENVIRONMENT, None).run(0, 1, *given)

    run.codes = lambda: [worker.exitcode for worker in run.workers]
    return run


@pytest.fixture
def poisoned(tmp_path, prepared_model) -> Project:
    """A shard with the poison under two ids, in its midst."""
    sequences = [*GOOD[:9], POISON, *GOOD[9:], POISON.lower()]
    return make_project(tmp_path / "poisoned", prepared_model, sequences)


@pytest.fixture(scope="module")
def undisturbed(context, prepared_model, tmp_path_factory) -> Project:
    project = make_project(tmp_path_factory.mktemp("good"), prepared_model, GOOD)
    assert WorkerProcess(context, project, **CONFIG).finish().exit_code == 0
    return project


def assert_only_the_poison_is_missing(project: Project, undisturbed: Project) -> str:
    """Compare all other rows, and every file that tells of the poison; return the reason."""
    with open_embeddings(project.output / "shard_0.h5") as file:
        assert file.rows.tobytes() == undisturbed.content()[0]
        ((key, reason),) = file.quarantine().items()
    assert key == digest(POISON.encode())
    result = project.results / "embeddings.h5"
    index = project.results / "index.parquet"
    found = merge(index, [project.output / "shard_0.h5"], result, LOGGER)
    assert (found.sequences, found.quarantined) == (len(GOOD), {key: reason})
    assert write_quarantine(index, project.results / "quarantine.tsv", found.quarantined) == 2
    lines = (project.results / "quarantine.tsv").read_text().splitlines()[1:]
    assert lines == [f"s9\t{reason}", f"s{len(GOOD) + 1}\t{reason}"]
    return reason


@pytest.mark.parametrize(
    ("fault", "codes", "reason"),
    [
        # In a batch, then alone in each of two fresh processes.
        (crashes, [-signal.SIGSEGV] * 3 + [0], "the worker was killed by SIGSEGV"),
        (BREAKS_THE_GPU, [1, 1, 1, 0], "AcceleratorError: CUDA error: an illegal memory access"),
        # All others are done in the first process; two fresh ones try the poison.
        (RAISES, [1, 1, 0], "IndexError: index out of range in self"),
    ],
)
def test_a_poison_is_quarantined_and_nothing_else_is(
    fault, codes, reason, supervise, poisoned, undisturbed
):
    assert supervise(poisoned, fault)["quarantined"] == 1
    assert supervise.codes() == codes
    events = read_events(events_path(poisoned.log))
    assert [event["event"] for event in events].count("restart") == len(codes) - 1
    assert (events[-1]["event"], events[-1]["quarantined"]) == ("end", 1)
    assert assert_only_the_poison_is_missing(poisoned, undisturbed).startswith(reason)


def test_a_crash_among_finished_rows_leaves_these_alone(supervise, poisoned, undisturbed):
    supervise(poisoned)
    digests, key = read_shard_index(poisoned.index()).digests, digest(POISON.encode())
    place = [row.tobytes() for row in digests].index(key)
    pending = list(range(place % 2, len(digests), 2))
    forget(poisoned, pending)
    status = supervise(poisoned, crashes)
    assert supervise.codes() == [-signal.SIGSEGV] * 3 + [0]
    found = [status[name] for name in ("resumed_sequences", "computed", "quarantined")]
    assert found == [len(digests) - len(pending), len(pending) - 1, 1]
    assert_only_the_poison_is_missing(poisoned, undisturbed)


def test_what_a_suspect_computed_is_not_computed_again(supervise, poisoned):
    batches = poisoned.folder / "batches.txt"
    supervise(poisoned, partial(crashes, batches), checkpoint_seq_threshold=1)
    lines = batches.read_text().splitlines()
    # The first process did not write what it computed beside the poison.
    later = [line.split()[1] for line in lines if line.split()[0] != lines[0].split()[0]]
    assert len(set(later)) == len(later) > 1


def test_quarantine_survives_a_restart_and_is_not_tried_again(supervise, poisoned, undisturbed):
    supervise(poisoned, RAISES)
    (poisoned.output / "shard_0.h5").unlink()
    status = supervise(poisoned)
    assert (status["resumed_sequences"], status["quarantined"]) == (len(GOOD), 1)
    # All that can be computed is there: no worker is started.
    assert supervise.codes() == []
    assert_only_the_poison_is_missing(poisoned, undisturbed)


def test_a_quarantined_sequence_is_tried_again_after_merge(supervise, poisoned):
    supervise(poisoned, RAISES)
    index, shards = poisoned.results / "index.parquet", [poisoned.output / "shard_0.h5"]
    found = merge(index, shards, poisoned.results / "embeddings.h5", LOGGER)
    remove_merged(poisoned.results, found.recipe)
    status = supervise(poisoned)
    assert (status["computed"], status["quarantined"]) == (1, 0)
    found = merge(index, shards, poisoned.results / "embeddings.h5", LOGGER)
    assert (found.sequences, found.relinked) == (len(GOOD) + 2, False)


def rows_of(project: Project) -> tuple[dict[bytes, bytes], dict[bytes, str]]:
    """Rows by digest, and the quarantine."""
    with open_embeddings(project.output / "shard_0.h5") as file:
        pairs = zip(file.digests(), file.rows, strict=True)
        return {key.tobytes(): row.tobytes() for key, row in pairs}, file.quarantine()


def test_out_of_memory_costs_only_the_longest_sequence(
    supervise, undisturbed, tmp_path, prepared_model
):
    project = make_project(tmp_path / "short of memory", prepared_model, GOOD)
    supervise(project, has_memory_for_200_tokens)
    assert supervise.codes() == [1, 1, 0]
    rows, quarantine = rows_of(project)
    ((key, reason),) = quarantine.items()
    assert key == digest(GOOD[2].encode()) and "DefaultCPUAllocator" in reason
    expected, _ = rows_of(undisturbed)
    assert expected.pop(key) and rows == expected


def test_a_poison_of_many_windows_leaves_no_token_rows(supervise, tmp_path, prepared_model):
    # The poison's last window alone holds the U.
    embedding = EMBEDDING | {"long_sequences": "window", "max_length": 150, "per_residue": True}
    long = make_sequences([400, 390, 380], seed=3)
    sequences = [long[0], long[1] + "U", long[2], *GOOD[3:]]
    project = make_project(tmp_path / "windows", prepared_model, sequences)
    supervise(project, RAISES, embedding=embedding)
    kept = [s for s in sequences if "U" not in s]
    plain = make_project(tmp_path / "plain", prepared_model, kept)
    supervise(plain, embedding=embedding)
    assert project.content()[0] == plain.content()[0]
    with h5py.File(project.output / "shard_0.h5") as a, h5py.File(plain.output / "shard_0.h5") as b:
        assert a["residues/embeddings"][:].tobytes() == b["residues/embeddings"][:].tobytes()
        assert a["residues/offsets"][:].tolist() == b["residues/offsets"][:].tolist()


def test_where_every_sequence_crashes_the_run_ends_and_quarantines_none(supervise, poisoned):
    with pytest.raises(WorkerError, match="10 sequences in a row failed, each alone .*SIGABRT"):
        supervise(poisoned, partial(is_killed_in_each_batch, signal.SIGABRT))
    known = read_failures(poisoned.checkpoints())
    assert (known.suspects, known.quarantined) == ({}, {})
    assert supervise(poisoned)["quarantined"] == 0


def test_a_kill_by_a_person_blames_no_sequence(supervise, poisoned):
    for _ in range(3):
        with pytest.raises(WorkerError, match="was killed by SIGKILL"):
            supervise(poisoned, partial(is_killed_in_each_batch, signal.SIGKILL))
    assert not (poisoned.checkpoints() / "failures.json").exists()
    status = supervise(poisoned)
    assert (status["quarantined"], status["num_sequences"]) == (0, len(GOOD) + 1)


@pytest.mark.parametrize(
    ("fault", "codes", "message"),
    [
        (partial(is_killed, signal.SIGSEGV), [-11], "without .* status: it was killed by SIGSEGV"),
        (crashes_with_the_model, [-11, 1], "killed by SIGSEGV while no sequence"),
    ],
)
def test_a_crash_outside_of_batches_does_not_start_workers_for_ever(
    fault, codes, message, supervise, poisoned
):
    with pytest.raises(WorkerError, match=message):
        supervise(poisoned, fault)
    assert supervise.codes() == codes


def test_a_damaged_failures_file_is_set_aside(supervise, poisoned, undisturbed):
    supervise(poisoned, RAISES)
    path = poisoned.checkpoints() / "failures.json"
    path.write_text("{")
    (poisoned.output / "shard_0.h5").unlink()
    status = supervise(poisoned, RAISES)
    assert (status["quarantined"], status["resumed_sequences"]) == (1, len(GOOD))
    assert len(list(path.parent.glob("failures.json.damaged*"))) == 1
    assert_only_the_poison_is_missing(poisoned, undisturbed)
