"""The page of a plan, of datasets whose workers have not run, or failed at some sequences."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from indexing import make_check
from worker_runs import (
    EMBEDDING,
    SEQUENCES,
    Project,
    WorkerProcess,
    killed_after_a_block,
    make_project,
    make_sequences,
)

from seqembed.checkpoints.manifest_and_failures import Failures, write_failures
from seqembed.environment import EnvConfig
from seqembed.look.asked import PlannedDataset, Surroundings
from seqembed.look.page import write_end, write_page
from seqembed.look.plan import DatasetPlan, plan_dataset
from seqembed.look.plan_file import write_plan
from seqembed.look.text import BLOCKS, COLUMNS
from seqembed.machine.words import format_bytes
from seqembed.models.prepared import read_prepared
from seqembed.settings.request import Request
from seqembed.storage.digests import to_hex
from seqembed.worker.manifest import checkpoint_key

LOGGER = logging.getLogger("seqembed.tests")


def make_plan(project: Project, name: str = "demo", **changes: Any) -> DatasetPlan:
    """The plan of a project; changes: of the settings of `embedding`, and of `device`."""
    around = Surroundings(
        results=project.folder / "results",
        models=project.model.parent,
        speeds=project.folder / "speeds",
        asked=changes.pop("device", "cpu"),
        token_budget="auto",
        checkpoint_sequences=10,
        cores=4,
        gpu=None,
        jobs=None,
        cluster=False,
        environment=EnvConfig.from_environ({"CUDA_VISIBLE_DEVICES": ""}),
    )
    dataset = PlannedDataset(
        name=name,
        model="random",
        source="",
        fasta=[],
        shards=project.world_size,
        request=Request(**EMBEDDING | changes),
        invalid_residues="skip",
        reuse=[],
        threads=2,
        indexed=True,
    )
    model = read_prepared(project.model)
    return plan_dataset(dataset, around, model, project.results, LOGGER)


def print_page(plan: DatasetPlan) -> dict[str, str]:
    """The text behind each label, and the first line under ""."""
    first, *lines = write_page(plan, BLOCKS, 10**12)
    assert all(len(line) <= COLUMNS for line in (first, *lines))
    return {"": first} | {line[2:17].strip(): line[19:] for line in lines if line[2:3].strip()}


def test_a_new_dataset(project):
    found = print_page(make_plan(project))
    assert found[""] == "demo: random, mean, fp32 on the CPU"
    assert found["sequences"] == f"{len(SEQUENCES)}"
    assert found["to compute"] == f"{len(SEQUENCES)} sequences in 1 shard"
    assert found["over length"] == "none over 1,022 residues"
    assert found["disk"].endswith("; 1,000 GB free") or found["disk"].endswith("; 1.00 TB free")
    assert found["memory"].endswith(" for a worker")


def test_settings_that_decide_the_rows_are_in_the_first_line(project):
    settings = {"layer": 2, "pooling": "max", "per_residue": True, "device": "cuda"}
    plan = make_plan(project, **settings)
    what = "layer 2, max and rows of residues, fp16 on a GPU"
    assert print_page(plan)[""] == f"demo: random, {what}"
    assert " of the card, and " in print_page(plan)["memory"]
    assert plan.disk.result > make_plan(project).disk.result


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("window", "over 100 residues, read in windows"),
        ("truncate", "over 100 residues, cut to that length"),
    ],
)
def test_sequences_over_the_length_are_counted(project, policy, said):
    plan = make_plan(project, long_sequences=policy, max_length=100)
    long = sum(len(sequence) > 100 for sequence in SEQUENCES)
    assert print_page(plan)["over length"] == f"{long} {said}"


def test_the_memory_is_that_of_the_longest_sequence(tmp_path, prepared_model):
    project = make_project(tmp_path / "a", prepared_model, make_sequences([50, 6000]))
    policies = ("full", "window")
    whole, cut = (make_plan(project, long_sequences=policy).memory.host for policy in policies)
    assert whole > cut


def test_records_without_an_embedding_are_said(tmp_path, prepared_model):
    sequences = [*make_sequences([5, 6, 7]), "ACJ"]
    project = make_project(tmp_path / "a", prepared_model, sequences, check=make_check("skip"))
    plan = make_plan(project)
    assert print_page(plan)["sequences"] == "3; 1 more record will get no embedding"
    shard = plan.shards[0].index
    folder = project.results / "checkpoints" / checkpoint_key(plan.recipe, shard) / "shard_0"
    folder.mkdir(parents=True)
    write_failures(folder, Failures(quarantined={to_hex(shard.digests)[0]: "too long"}))
    plan = make_plan(project)
    assert print_page(plan)["sequences"] == "2; 2 more records will get no embedding"
    assert print_page(plan)["to compute"] == "2 sequences in 1 shard"


def test_equal_sequences_are_computed_once(tmp_path, prepared_model):
    project = make_project(tmp_path / "a", prepared_model, make_sequences([5, 6]) * 3)
    found = print_page(make_plan(project))
    assert found["sequences"] == "6, 2 of them distinct"
    assert found["to compute"] == "2 sequences in 1 shard"


def test_many_shards_share_a_line(tmp_path, prepared_model):
    project = make_project(tmp_path / "a", prepared_model, make_sequences([50] * 24), world_size=12)
    lines = list(write_page(make_plan(project), BLOCKS, 1))
    assert lines[-1] == "  and 4 more shards, 8.3% of the time each"
    assert lines[-10].split() == ["shard", "sequences", "tokens", "of", "the", "time"]
    assert lines[-9].split() == ["0", "2", "104", "8.3%"]


@pytest.mark.parametrize(
    ("count", "shards", "line"),
    [
        (8, 9, "  and 1 more shard, 0.0% of the time"),
        (19, 10, "  and 2 more shards, 5.3% to 10.5% of the time each"),
    ],
)
def test_the_other_shards_are_counted(tmp_path, prepared_model, count, shards, line):
    sequences = make_sequences([50] * count)
    project = make_project(tmp_path / "a", prepared_model, sequences, world_size=shards)
    assert list(write_page(make_plan(project), BLOCKS, 1))[-1] == line


def test_rows_that_a_killed_worker_saved_are_there(project, context):
    many = {"checkpoint_seq_threshold": 15}
    assert WorkerProcess(context, project, killed_after_a_block, **many).finish().exit_code == -9
    plan = make_plan(project)
    saved = int(plan.shards[0].saved.sum())
    assert 0 < saved < len(SEQUENCES)
    assert print_page(plan)["already there"] == f"{saved} in this dataset's checkpoints"
    status = WorkerProcess(context, project).finish().status
    assert status["computed"] == sum(plan.missing) == len(SEQUENCES) - saved


def test_long_names_fit(project):
    print_page(make_plan(project, name="x" * 200))


def test_all_datasets_together_are_compared_with_the_disk(project):
    plan, path = make_plan(project), Path("results")
    more = plan.disk.more
    assert more > 10_000
    assert list(write_end([(more, None)], path, more)) == []
    short = " ".join(write_end([(more, None)], path, more - 5))
    assert "WARNING: the disk of results/ will not do: 5 bytes are missing." in short
    both = list(write_end([(more, None), (more, 120.0)], path, 2 * more))
    assert both[0] == f"all 2 datasets: {format_bytes(2 * more)} more disk at the peak"
    assert len(both) == 2
    timed = list(write_end([(more, 0.0), (more, 120.0)], path, 2 * more))
    assert timed[0] == f"{both[0]}; about 2 min"


def test_the_file_has_all_figures(project):
    write_plan(make_plan(project), path := project.folder / "plan.json")
    content = json.loads(path.read_text())
    assert (content["kind"], content["format_version"]) == ("plan", "1")
    assert content["residues"] == sum(map(len, SEQUENCES))
    assert (content["shortest"], content["longest"]) == (1, 300)
    assert content["seconds"] is None
