"""A worker that keeps token rows: the same bytes, however often it was stopped or damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import worker_runs
from worker_runs import EMBEDDING, SEQUENCES, WIDTH, Project, WorkerProcess, make_project

from seqembed.checkpoints.blocks import list_blocks, read_block
from seqembed.results.reader import open_embeddings

# Sequences of many windows, which are read in several passes each.
ASKED = {
    "embedding": EMBEDDING
    | {"per_residue": True, "storage": "float16", "long_sequences": "window", "max_length": 40},
    "token_budget": 100,
}


def run(context: Any, project: Project, fault: Any = None, **changes: Any) -> Any:
    return WorkerProcess(context, project, fault, **ASKED | changes).finish()


def read(project: Project) -> tuple[bytes, bytes, list[int], list[int]]:
    with open_embeddings(project.output / "shard_0.h5") as file:
        rows, residues = file.rows.tobytes(), file.residues.tobytes()
        assert (file.residues.dtype, file.residues.shape[1]) == (np.float16, WIDTH)
        return rows, residues, file.offsets().tolist(), file.flags().tolist()


def assert_nothing_left(folder: Path) -> None:
    """No temporary file, and a file of token rows for each block."""
    names = [path.name for path in folder.iterdir()]
    assert not [name for name in names if name.endswith(".tmp")]
    # Once the shard is finished, the folder holds the shard and no block.
    kept = {read_block(path).residues.name for path in list_blocks(folder)}
    assert not (kept and (folder / "shard_0.h5").exists())
    assert {name for name in names if name.startswith("residues_")} == kept


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, prepared_model, context):
    project = make_project(tmp_path_factory.mktemp("whole"), prepared_model)
    assert run(context, project).status["computed"] == len(SEQUENCES)
    assert_nothing_left(project.checkpoints())
    return read(project)


def test_each_residue_has_a_row(undisturbed):
    _, residues, offsets, flags = undisturbed
    assert np.diff(offsets).tolist() == [len(sequence) for sequence in SEQUENCES]
    assert len(residues) == 2 * WIDTH * offsets[-1]
    assert flags == [int(len(sequence) > 40) for sequence in SEQUENCES]


def test_a_worker_that_finds_all_finished_leaves_nothing(undisturbed, project, context):
    for expected in (0, len(SEQUENCES)):
        assert run(context, project).status["resumed_sequences"] == expected
        assert_nothing_left(project.checkpoints())
        assert read(project) == undisturbed


def test_a_worker_that_is_stopped_within_a_sequence_goes_on(undisturbed, project, context):
    # Its first sequences have 300 and 299 residues: the third pass is within one of them.
    assert run(context, project, worker_runs.terminated_in_third_batch).exit_code
    assert_nothing_left(project.checkpoints())
    assert run(context, project).status["num_sequences"] == len(SEQUENCES)
    assert_nothing_left(project.checkpoints())
    assert read(project) == undisturbed


def test_sequences_of_several_passes_are_computed_among_finished_ones(
    undisturbed, project, context
):
    assert run(context, project, worker_runs.killed_before_the_shard).exit_code == -9
    blocks = list_blocks(project.checkpoints())
    lost = sum(len(read_block(path).rows) for path in blocks[::2])
    for path in blocks[::2]:
        path.unlink()
    assert run(context, project).status["computed"] == lost > 8
    assert_nothing_left(project.checkpoints())
    assert read(project) == undisturbed


def test_a_worker_that_was_killed_goes_on(undisturbed, project, context):
    for _ in range(2):
        outcome = run(context, project, worker_runs.killed_after_a_block)
        assert outcome.exit_code == -9
    assert run(context, project).status["resumed_sequences"] == 2
    assert read(project) == undisturbed
