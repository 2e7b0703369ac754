"""A run goes on from the files that 0.1.0 left in its middle, and ends with the same bytes."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from worker_runs import BUNDLED_MODEL, EMBEDDING, Project, WorkerProcess

from seqembed.checkpoints.blocks import list_blocks, read_block
from seqembed.checkpoints.merge import merge
from seqembed.models.prepare import prepare_model

LEFT = Path(__file__).parents[1] / "golden/left_behind"
LOGGER = logging.getLogger("seqembed.tests")
ASKED = EMBEDDING | {
    "per_residue": True,
    "storage": "float16",
    "long_sequences": "window",
    "max_length": 30,
}
FINISHED = 10  # of the 13 sequences of shard 0


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "model.json"
    prepare_model("esm2_random", str(BUNDLED_MODEL), path, LOGGER)
    return path


def take_up(folder: Path, model: Path, *parts: str) -> Project:
    """A project with these parts of what was left behind."""
    project = Project(folder, model, world_size=2)
    for part in parts:
        target = project.results.joinpath(*Path(part).parts[1:])
        shutil.copytree(LEFT / part, target, dirs_exist_ok=True)
    shutil.copy(LEFT / "demo/index.parquet", project.results)
    return project


def embed(context, project: Project, rank: int) -> dict:
    worker = WorkerProcess(context, project, rank=rank, embedding=ASKED, token_budget="auto")
    outcome = worker.finish()
    assert outcome.exit_code == 0, outcome.status
    return outcome.status


def read_rows(project: Project, rank: int) -> dict[bytes, tuple[bytes, bytes]]:
    """Each sequence's row and its token rows, by digest."""
    with h5py.File(project.output / f"shard_{rank}.h5", locking=False) as file:
        bounds, rows = file["residues/offsets"][:], file["residues/embeddings"][:]
        parts = [rows[begin:end].tobytes() for begin, end in zip(bounds, bounds[1:], strict=False)]
        keys = [key.tobytes() for key in file["digests"][:]]
        values = [row.tobytes() for row in file["embeddings"][:]]
    return dict(zip(keys, zip(values, parts, strict=True), strict=True))


def read_columns(path: Path) -> dict[str, np.ndarray]:
    names = ("embeddings", "sequence_ids", "flags", "residues/embeddings", "residues/offsets")
    with h5py.File(path, locking=False) as file:
        return {name: file[name][:] for name in names}


def read_block_rows(folder: Path) -> dict[bytes, bytes]:
    blocks = map(read_block, list_blocks(folder))
    pairs = (pair for block in blocks for pair in zip(block.digests, block.rows, strict=True))
    return {digest.tobytes(): row.tobytes() for digest, row in pairs}


def test_a_killed_shard_goes_on_from_its_checkpoint(tmp_path, context, model):
    """Its blocks, manifest, suspects and steps in flight are read; two suspects are left to try."""
    project = take_up(tmp_path / "left", model, "demo")
    (folder,) = LEFT.glob("demo/checkpoints/*/shard_0")
    status = embed(context, project, rank=0)
    assert (status["resumed_sequences"], status["computed"]) == (FINISHED, 13 - FINISHED)
    found, earlier = read_rows(project, 0), read_block_rows(folder)
    assert len(earlier) == FINISHED
    # Other kinds of CPUs give other last bits, so the rest is compared with a run on this one.
    undisturbed = take_up(tmp_path / "undisturbed", model, "demo/index")
    assert embed(context, undisturbed, rank=0)["resumed_sequences"] == 0
    wanted = read_rows(undisturbed, 0)
    assert found.keys() == wanted.keys()
    for key, (row, token_rows) in found.items():
        if key in earlier:
            assert row == earlier[key]
        else:
            assert (row, token_rows) == wanted[key]


def test_a_finished_shard_is_not_computed_again(tmp_path, context, model):
    project = take_up(tmp_path, model, "demo")
    (project.output / "shard_1.h5").unlink()
    status = embed(context, project, rank=1)
    assert (status["resumed_sequences"], status["computed"]) == (13, 0)
    old, now = (
        read_columns(path / "shard_1.h5") for path in (LEFT / "demo/shards", project.output)
    )
    for name, column in old.items():
        np.testing.assert_array_equal(column, now[name])


def test_a_stored_result_is_taken_instead_of_computing(tmp_path, context, model):
    project = take_up(tmp_path, model, "demo/index", "done/store")
    assert [embed(context, project, rank)["computed"] for rank in range(2)] == [0, 0]
    output = project.results / "embeddings.h5"
    shards = [project.output / f"shard_{rank}.h5" for rank in range(2)]
    assert merge(project.results / "index.parquet", shards, output, LOGGER).relinked
    (stored,) = LEFT.glob("done/store/*.h5")
    assert output.read_bytes() == stored.read_bytes()
