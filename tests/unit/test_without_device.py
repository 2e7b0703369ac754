"""A shard whose rows are all there is finished without a GPU, without a worker, without PyTorch."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import worker_runs
from broken_files import flip
from indexing import split_proteins
from known_files import KNOWN_RECIPE
from stand_in_gpus import Machine
from worker_imports import HOOK
from worker_runs import (
    EMBEDDING,
    SEQUENCES,
    Project,
    WorkerProcess,
    embed_command,
    make_project,
    make_sequences,
)

from seqembed import supervisor
from seqembed.checkpoints.find_sources import SourceFinder
from seqembed.checkpoints.manifest_and_failures import (
    Failures,
    read_manifest,
    write_failures,
    write_manifest,
)
from seqembed.checkpoints.merge import merge, remove_merged
from seqembed.environment import EnvConfig
from seqembed.index.reader import read_shard_index
from seqembed.index.sources import Source, Sources, write_sources
from seqembed.machine.devices import lease_device
from seqembed.models.prepared import read_prepared
from seqembed.results.reader import open_embeddings
from seqembed.settings.recipe import read_recipe, recipe_path
from seqembed.settings.request import Request, read_settings
from seqembed.storage.digests import to_hex
from seqembed.supervisor import Supervisor
from seqembed.worker import without_device
from seqembed.worker.without_device import finish_without_device

LOGGER = logging.getLogger("seqembed.tests")
RENAMED = "renamed"


def merge_all(project: Project) -> Path:
    """Merge all shards, as the entry does; return the result."""
    shards = [project.output / f"shard_{rank}.h5" for rank in range(project.world_size)]
    result = project.results / "embeddings.h5"
    found = merge(project.results / "index.parquet", shards, result, LOGGER)
    remove_merged(project.results, found.recipe)
    return result


def rows_of(path: Path) -> dict[bytes, bytes]:
    with open_embeddings(path) as file:
        pairs = zip(file.digests(), file.rows, strict=True)
        return {key.tobytes(): row.tobytes() for key, row in pairs}


def split_again(
    project: Project, stores: Sequence[Path] = (), device: Any = "cpu", world_size: int = 1
) -> Project:
    """Split as split.py does, with all that can be found of the rows."""
    request, model = Request(**EMBEDDING), read_prepared(project.model)
    finder = SourceFinder(project.results, request, model, device, stores, [], LOGGER)
    shards = [project.index(rank) for rank in range(world_size)]
    split_proteins(project.results / "index.parquet", shards, find=finder.find)
    return replace(project, world_size=world_size)


def finish(project: Project, rank: int = 0, **changes: Any) -> dict[str, Any] | None:
    config, index = project.config(**changes), changes.pop("index", project.index(rank))
    return finish_without_device(rank, index, project.output, config, lambda: None, LOGGER)


def complete(project: Project, rank: int = 0, **counts: int) -> dict[str, Any]:
    """The status of a finished shard, with these counts."""
    found = {"resumed_sequences": 0, "computed": 0, "reused": 0, "quarantined": 0} | counts
    return found | {
        "rank": rank,
        "status": "complete",
        "shard_path": str(project.output / f"shard_{rank}.h5"),
        "num_sequences": found["resumed_sequences"] + found["reused"],
        "checkpointing_enabled": True,
        "device": "no device",
    }


def assert_left_to_a_worker(project: Project, rank: int = 0, **changes: Any) -> None:
    assert finish(project, rank, **changes) is None
    assert not (changes.get("output", project.output) / f"shard_{rank}.h5").exists()


@pytest.fixture(scope="module")
def computed(context, prepared_model, tmp_path_factory) -> Project:
    """A shard that a worker has finished."""
    project = make_project(tmp_path_factory.mktemp("computed"), prepared_model)
    assert WorkerProcess(context, project).finish().exit_code == 0
    return project


@pytest.fixture(scope="module")
def merged(computed, tmp_path_factory) -> Project:
    """The same, merged: its rows are in the store, and nowhere else."""
    project = replace(computed, folder=tmp_path_factory.mktemp("merged"))
    shutil.copytree(computed.folder, project.folder, dirs_exist_ok=True)
    merge_all(project)
    return project


@pytest.fixture
def finished(project, computed) -> Project:
    """The project with its finished shard in the checkpoint folder; the rule's output is gone."""
    shutil.copytree(computed.results, project.results, dirs_exist_ok=True)
    shutil.rmtree(project.output)
    return project


@pytest.fixture
def stored(project, merged) -> Project:
    """The project with all rows in its own store."""
    shutil.copytree(merged.results, project.results, dirs_exist_ok=True)
    return project


# A shard that is complete.


def test_a_finished_shard_is_linked_again(finished, computed):
    kept = finished.checkpoints() / "shard_0.h5"
    inode = kept.stat().st_ino
    assert finish(finished) == complete(finished, resumed_sequences=len(SEQUENCES))
    assert finished.content() == computed.content()
    assert (finished.output / "shard_0.h5").stat().st_ino == kept.stat().st_ino == inode


def test_a_finished_shard_gets_its_new_ids(finished, computed):
    make_project(finished.folder, finished.model, prefix=RENAMED)
    assert finish(finished) == complete(finished, resumed_sequences=len(SEQUENCES))
    rows, ids = finished.content()
    assert rows == computed.content()[0]
    assert ids == [f"{RENAMED}{n}".encode() for n in range(len(SEQUENCES))]


def test_rows_of_the_store_need_no_device(stored, merged):
    assert finish(stored) == complete(stored, reused=len(SEQUENCES))
    # The shard only says where the rows are.
    assert rows_of(stored.output / "shard_0.h5") == {}
    result = merge_all(stored)
    assert result.read_bytes() == (merged.results / "embeddings.h5").read_bytes()


def test_rows_of_an_earlier_split_need_no_device(finished, computed):
    project = split_again(finished, world_size=2)
    counts = [len(read_shard_index(project.index(rank)).rows) for rank in range(2)]
    # One folder is read by one worker, so that the other shard is empty.
    assert sum(counts) == len(SEQUENCES)
    for rank, count in enumerate(counts):
        assert finish(project, rank) == complete(project, rank, resumed_sequences=count)
    assert rows_of(merge_all(project)) == rows_of(computed.output / "shard_0.h5")


def test_a_quarantined_sequence_stays_quarantined(finished, context):
    worker_runs.forget(finished, [3])
    failed = to_hex(read_shard_index(finished.index()).digests)[3]
    write_failures(finished.checkpoints(), Failures(quarantined={failed: "because"}))
    assert WorkerProcess(context, finished).finish().status["quarantined"] == 1
    shutil.rmtree(finished.output)
    counts = {"resumed_sequences": len(SEQUENCES) - 1, "quarantined": 1}
    assert finish(finished) == complete(finished, **counts)
    with open_embeddings(finished.output / "shard_0.h5") as file:
        assert file.quarantine() == {bytes.fromhex(failed): "because"}


def test_all_blocks_and_no_finished_shard(finished, context):
    """A worker is needed for them: it is rare, and blocks say nothing of what is missing."""
    worker_runs.forget(finished, [])
    assert_left_to_a_worker(finished)
    status = WorkerProcess(context, finished).finish().status
    assert (status["computed"], status["resumed_sequences"]) == (0, len(SEQUENCES))


# A shard that a worker has to see.


def test_a_row_that_is_missing_needs_a_device(stored):
    make_project(stored.folder, stored.model, [*SEQUENCES, "MKV"])
    assert_left_to_a_worker(stored)


def test_a_finished_shard_of_which_a_row_is_gone_needs_a_device(finished):
    flip(finished.checkpoints() / "shard_0.h5", 3000)
    assert_left_to_a_worker(finished)


@pytest.mark.parametrize(
    "changes",
    [{"force_restart": True}, {"enable_checkpointing": False}, {"device": "cuda"}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_was_asked_for_needs_a_device(changes, finished):
    assert_left_to_a_worker(finished, **changes)
    assert finish(finished, device="auto")


def test_an_index_of_another_rank_is_left_to_a_worker(finished):
    folder = finished.checkpoints()
    shutil.copytree(folder, folder.with_name("shard_1"))
    (folder.with_name("shard_1") / "shard_0.h5").rename(folder.with_name("shard_1") / "shard_1.h5")
    assert_left_to_a_worker(finished, 1, index=finished.index(0))


def test_checkpoints_of_another_recipe_are_left_to_a_worker(finished):
    folder = finished.checkpoints()
    write_manifest(folder, replace(read_manifest(folder), recipe_fingerprint="0" * 64))
    assert_left_to_a_worker(finished)
    assert read_manifest(folder).recipe_fingerprint == "0" * 64


@pytest.mark.parametrize("name", ["manifest.json", "failures.json"])
def test_a_damaged_file_of_the_checkpoint_is_left_to_a_worker(name, finished, caplog):
    caplog.set_level(logging.INFO)
    (finished.checkpoints() / name).write_text("{")
    assert_left_to_a_worker(finished)
    assert f"a device is needed: {finished.checkpoints() / name}: damaged" in caplog.text


def test_a_damaged_list_of_sources_costs_nothing_of_a_finished_shard(finished):
    (finished.index().parent / "reuse.json").write_text("{")
    assert finish(finished) == complete(finished, resumed_sequences=len(SEQUENCES))


def test_without_a_recipe_and_sources_a_worker_is_needed(finished):
    shutil.rmtree(finished.results / "recipes")
    assert_left_to_a_worker(finished)
    assert not (finished.results / "recipes").exists()


# The recipe, where no worker has resolved it.


@pytest.fixture
def second(tmp_path, prepared_model) -> Callable[..., Project]:
    """Makes another dataset, of other ids."""

    def make(sequences: Sequence[str] = SEQUENCES, **options: Any) -> Project:
        return make_project(tmp_path / "second", prepared_model, sequences, prefix="t", **options)

    return make


def read_recipes(project: Project) -> list[Any]:
    return [read_recipe(path) for path in project.results.glob("recipes/*.json")]


def test_a_dataset_takes_the_recipe_under_which_all_its_rows_are_there(second, merged):
    stores = [merged.results / "store"]
    project = split_again(second(SEQUENCES[5:30]), stores)
    assert finish(project, stores=[str(stores[0])]) == complete(project, reused=25)
    assert read_recipes(project) == read_recipes(merged)
    path = recipe_path(
        project.results / "recipes", Request(**EMBEDDING), read_prepared(project.model)
    )
    assert path.exists()
    rows, expected = rows_of(merge_all(project)), rows_of(merged.results / "embeddings.h5")
    assert len(rows) == 25 and rows.items() <= expected.items()


def test_no_recipe_is_taken_if_a_row_of_another_shard_is_missing(second, merged):
    stores = [merged.results / "store"]
    made = second([*SEQUENCES, "MKV"], world_size=2)
    project = split_again(made, stores, world_size=2)
    left = json.loads((project.index().parent / "reuse.json").read_text())["left"]
    (counts,) = left.values()
    assert sorted(counts) == [0, 1]
    assert_left_to_a_worker(project, counts.index(0), stores=[str(stores[0])])
    assert read_recipes(project) == []


def test_no_recipe_is_taken_if_the_rows_are_gone_since_the_split(second, merged, tmp_path):
    """Otherwise a worker on a CPU would be bound to the recipe of a GPU's rows that are gone."""
    store = tmp_path / "gone/store"
    shutil.copytree(merged.results / "store", store)
    shutil.copytree(merged.results / "recipes", store.parent / "recipes")
    project = split_again(second(SEQUENCES[5:30]), [store])
    shutil.rmtree(store)
    assert_left_to_a_worker(project, stores=[str(store)])
    assert read_recipes(project) == []


CPU = replace(KNOWN_RECIPE, weights="c" * 64)
CUDA = replace(CPU, device="cuda", kernels="fused", precision="fp16")
FULL = replace(CUDA, precision="fp32")


@pytest.mark.parametrize(
    ("device", "precision", "left", "expected"),
    [
        # A GPU's rows come first, as a worker that finds both devices takes the GPU.
        ("auto", "auto", [0, 0, 0], [CUDA, CPU]),
        ("auto", "auto", [0, 1, 0], [CPU]),
        ("cpu", "auto", [0, 0, 0], [CPU]),
        ("cuda", "auto", [0, 0, 0], [CUDA]),
        ("cuda", "fp32", [1, 1, 0], [FULL]),
        ("auto", "auto", [1, 1, 0], []),
    ],
)
def test_the_recipe_is_one_that_a_worker_could_come_to(device, precision, left, expected, project):
    embedding = EMBEDDING | {"precision": precision}
    settings = read_settings(project.config(device=device, embedding=embedding))
    recipes = {recipe.fingerprint: recipe for recipe in (CPU, CUDA, FULL)}
    counts = {name: [0, n] for name, n in zip(recipes, left, strict=True)}
    sources = Sources(recipes=recipes, left=counts)
    found = without_device._complete(settings, read_prepared(project.model), sources)
    assert list(found) == expected


# Whether it is worth while to look.


def note_sources(project: Project, left: list[int], sources: Sequence[Source] = ()) -> None:
    content = Sources(left={"0" * 64: [9, 9], CPU.fingerprint: left}, sources=sources)
    write_sources(project.index().parent, content)


def may_be_finished(project: Project, rank: int = 0, **changes: Any) -> tuple[bool, bool]:
    """What the supervisor guesses, which reads JSON at most, and what is known with NumPy."""
    sources = without_device._read_sources(project.index().parent)
    config, results = project.config(**changes), project.results
    guess = supervisor._may_have_rows_elsewhere(rank, project.index(), project.output, config)
    return guess, without_device._may_be_finished(CPU, rank, results, config, sources)


def test_nothing_speaks_for_a_finished_shard(project):
    assert may_be_finished(project) == (False, False)
    project.index().parent.joinpath("reuse.json").unlink()
    assert may_be_finished(project) == (False, False)
    project.index().parent.joinpath("reuse.json").write_text('{"left": {"a": ')
    assert may_be_finished(project) == (False, False)


@pytest.mark.parametrize(
    ("left", "rank", "expected"), [([0, 4], 0, True), ([0, 4], 1, False), ([0], 1, False)]
)
def test_split_may_have_found_all_rows_of_a_shard(left, rank, expected, project):
    note_sources(project, left)
    assert may_be_finished(project, rank) == (expected, expected)


def test_a_shard_may_have_been_finished_before(project):
    other = project.results / f"checkpoints/{'0' * 12}-{'1' * 12}/shard_0/shard_0.h5"
    own = project.results / f"checkpoints/{CPU.fingerprint[:12]}-{'1' * 12}/shard_0/shard_0.h5"
    for path, expected in ((other, (True, False)), (own, (True, True))):
        path.parent.mkdir(parents=True)
        path.touch()
        assert may_be_finished(project) == expected
    assert may_be_finished(project, rank=1) == (False, False)


@pytest.mark.parametrize("own", [True, False])
def test_a_result_that_split_has_not_seen_may_hold_all_rows(own, project, merged, tmp_path):
    store = project.results / "store" if own else tmp_path / "other/store"
    store.mkdir(parents=True)
    shutil.copy(merged.results / "embeddings.h5", store / f"{CPU.fingerprint[:12]}.h5")
    changes = {} if own else {"stores": [str(store)]}
    assert may_be_finished(project, **changes) == (True, True)
    seal = without_device.read_seal(merged.results / "embeddings.h5")
    note_sources(project, [4], [Source(path="x", seal=seal, recipe=CPU.fingerprint)])
    assert may_be_finished(project, **changes) == (True, False)
    write_sources(project.index().parent, Sources(passed_over=[seal]))
    assert may_be_finished(project, **changes) == (True, False)


# In a process of its own.


def test_a_complete_shard_starts_no_worker_and_imports_no_torch(finished, computed):
    (finished.folder / "hook").mkdir()
    (finished.folder / "hook/sitecustomize.py").write_text(HOOK)
    output, log = finished.output / "shard_0.h5", finished.folder / "log"
    command = embed_command(finished.index(), finished.model, output, log)
    environment = os.environ | {"PYTHONPATH": str(finished.folder / "hook")}
    subprocess.run(command, env=environment, check=True)
    (process,) = (finished.folder / "hook").glob("*.json")
    modules = json.loads(process.read_text())["modules"]
    assert "seqembed.worker.without_device" in modules
    assert not [name for name in modules if name.split(".")[0] in ("torch", "triton")]
    assert finished.content() == computed.content()
    count = len(SEQUENCES)
    words = f"{count} sequences are in {output}: 0 computed on no device, {count} finished before"
    assert f"{words}, 0 reused" in log.read_text()


# Through the supervisor, which leases a GPU for a worker.


@pytest.fixture
def machine(tmp_path, monkeypatch, restored_process) -> Machine:
    """A machine with one GPU; `leased` tells for which workers it was leased."""
    machine = Machine(tmp_path / "machine")
    machine.add("0000:01:00.0", 0, "GPU-1")
    machine.leased = []

    @contextmanager
    def lease(*arguments: Any, **named: Any) -> Iterator[dict[str, str]]:
        found = lease_device(*arguments, **named, proc=machine.proc, dev=machine.dev)
        with found as variables:
            machine.leased.append(variables)
            yield variables

    monkeypatch.setattr(supervisor, "lease_device", lease)
    return machine


def supervise(project: Project, **changes: Any) -> dict[str, Any]:
    config = project.config(device="auto", **changes)
    arguments = (0, 1, project.index(), project.output, config)
    return Supervisor(LOGGER, EnvConfig.from_environ({}), None).run(*arguments)


def test_a_complete_shard_waits_for_no_gpu(finished, machine):
    with machine.lease():
        assert supervise(finished) == complete(finished, resumed_sequences=len(SEQUENCES))
    assert machine.leased == []


@pytest.mark.parametrize("fixture", ["stored", "finished"])
def test_a_row_that_is_missing_is_computed_on_a_gpu(fixture, request, machine):
    project = request.getfixturevalue(fixture)
    if fixture == "stored":
        make_project(project.folder, project.model, [*SEQUENCES, "MKV"])
    else:
        worker_runs.forget(project, [7])
    status = supervise(project)
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in machine.leased] == ["GPU-1"]
    counts = [status[name] for name in ("computed", "resumed_sequences", "reused")]
    known = len(SEQUENCES) - (fixture == "finished")
    assert counts == [1, *((0, known) if fixture == "stored" else (known, 0))]
    assert status["num_sequences"] == sum(counts)


def test_rows_of_all_kinds_add_up(merged, second, context):
    """Some rows are reused, some are of an earlier run, and some are computed."""
    more = make_sequences(range(20, 60), seed=4)
    made = second([*SEQUENCES[:15], *more])
    stores = {"stores": [str(merged.results / "store")]}
    for fault, code in ((worker_runs.killed_after_a_block, -9), (None, 0)):
        outcome = WorkerProcess(context, made, fault, **stores).finish()
        assert outcome.exit_code == code
    status = outcome.status
    counts = [status[name] for name in ("computed", "resumed_sequences", "reused")]
    assert min(counts) > 0 and counts[2] == 15
    assert status["num_sequences"] == sum(counts) == 55
    assert len(rows_of(merge_all(made))) == 55
