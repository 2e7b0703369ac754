"""What a stopped worker's successor computes again, counted in sequences."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from worker_runs import Project, WorkerProcess, make_project, make_sequences, note_steps

from seqembed.checkpoints.blocks import list_blocks, read_block
from seqembed.index.reader import read_shard_index

# Batches of 4, and later of 5 and 6.
SEQUENCES = make_sequences([n for n in range(120, 80, -2) for _ in range(6)])
INTERVAL = 20
CONFIG = {"token_budget": 500, "checkpoint_seq_threshold": INTERVAL}


@pytest.fixture
def project(tmp_path, prepared_model) -> Project:
    return make_project(tmp_path / "run", prepared_model, SEQUENCES)


def steps_file(project: Project) -> Path:
    return project.folder / "steps.txt"


def steps(project: Project) -> list[list[int]]:
    """The rows of each step that was computed, over all runs."""
    lines = steps_file(project).read_text().splitlines()
    return [[int(row) for row in line.split()] for line in lines]


def lost(project: Project) -> int:
    """How many sequences were computed, and have to be again."""
    shard = read_shard_index(project.index())
    computed = {shard.digests[row].tobytes() for step in steps(project) for row in step}
    blocks = [read_block(path) for path in list_blocks(project.checkpoints())]
    return len(computed - {digest.tobytes() for block in blocks for digest in block.digests})


def stop_at_random(
    context: Any, project: Project, number: signal.Signals, choice: random.Random
) -> bool:
    """Send the signal to a worker at some instant of its work; return whether it hit."""
    fault = partial(note_steps, steps_file(project))
    worker = WorkerProcess(context, project, fault, **CONFIG)
    # A block holds the rows of three to five steps: where fewer are let pass, none is ever written.
    wanted = len(steps(project)) + choice.randrange(1, 10)
    while worker.process.is_alive() and len(steps(project)) < wanted:
        time.sleep(0.001)
    time.sleep(choice.random() * 0.02)
    if worker.process.is_alive():
        os.kill(worker.process.pid, number)
    return worker.finish().exit_code in (143, -9)


@pytest.mark.timing
@pytest.mark.parametrize(("number", "most"), [(signal.SIGTERM, 0), (signal.SIGKILL, INTERVAL)])
def test_the_work_lost_by_a_signal(number, most, project, context):
    choice, found = random.Random(int(number)), []
    steps_file(project).touch()
    while stop_at_random(context, project, number, choice):
        found.append(lost(project))
    assert len(found) > 3 and max(found) <= most
    print(f"{len(found)} stops by {number.name}: {sum(found)} sequences lost, at most {max(found)}")
