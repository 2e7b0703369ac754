"""The worker: its helpers one by one, then whole, in processes of its own that are disturbed."""

from __future__ import annotations

import collections.abc
import inspect
import logging
import multiprocessing.queues
import os
import queue
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Optional, get_origin, get_type_hints

import h5py
import numpy as np
import pytest
import torch
import worker_runs
from broken_files import flip
from worker_runs import GOLDEN, SEQUENCES, WIDTH, Outcome, Project, WorkerProcess, begin

from seqembed import gpu_worker
from seqembed.checkpoints.blocks import list_blocks, read_block, write_next_block
from seqembed.checkpoints.manifest_and_failures import (
    CheckpointManifest,
    read_manifest,
    write_manifest,
)
from seqembed.checkpoints.merge import merge, remove_merged
from seqembed.errors import (
    ConfigError,
    IndexFormatError,
    InterruptedRun,
    ModelError,
)
from seqembed.index.reader import read_shard_index
from seqembed.inference.batches import MIN_BATCH_TOKENS
from seqembed.models.encoders.esm2 import Esm2
from seqembed.models.prepare import prepare_model
from seqembed.models.prepared import read_prepared
from seqembed.settings.recipe import read_recipe
from seqembed.storage.digests import digest, to_hex

LOGGER = logging.getLogger("seqembed.tests")

# The design's own text, which other programs rely on.
DESIGN = """
def gpu_worker(rank, world_size, results_queue, index_path, output_dir, model_config): ...
def _extract_checkpoint_config(model_config: Dict, output_dir: Path) -> Dict: ...
def _load_checkpoint_manifest(rank: int, enable_checkpointing: bool, checkpoint_base_dir: Path, logger) -> Optional[CheckpointManifest]: ...
def _resume_from_existing_checkpoints(rank: int, checkpoint_dir: Path, force_restart: bool, logger) -> Tuple[Set[str], Optional[np.ndarray]]: ...
def _load_and_filter_index(rank: int, world_size: int, index_path: Path, resumed_ids: Set[str], logger) -> List[int]: ...
def _load_model(model_config: Dict, device: torch.device, logger) -> Tuple[torch.nn.Module, Any]: ...
def _save_shard(rank: int, output_dir: Path, all_embeddings: List, all_ids: List[str], resumed_ids: Set[str], resumed_embeddings: Optional[np.ndarray], logger) -> Path: ...
def _report_error(rank: int, error: Exception, results_queue: Queue, logger): ...
"""  # noqa: E501
DESIGN_TYPES = {
    "Dict": dict,
    "List": list,
    "Tuple": tuple,
    "Set": collections.abc.Set,
    "Queue": multiprocessing.queues.Queue,
    "Optional": Optional,
    "Any": Any,
    "Path": Path,
    "CheckpointManifest": CheckpointManifest,
    "np": np,
    "torch": torch,
}


def in_the_design() -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(DESIGN, dict(DESIGN_TYPES), found)
    return found


@pytest.mark.parametrize("name", in_the_design())
def test_names_arguments_and_types_are_the_designs(name):
    wanted, own = in_the_design()[name], getattr(gpu_worker, name)
    assert own.__module__ == gpu_worker.__name__  # where a spawned process finds it
    assert list(inspect.signature(own).parameters) == list(inspect.signature(wanted).parameters)
    hints = get_type_hints(own)
    for argument, hint in get_type_hints(wanted).items():
        # The design says Dict where the code says dict[str, Any].
        assert hint in (hints[argument], get_origin(hints[argument])), argument


def test_the_core_is_short():
    lines = inspect.getsource(gpu_worker.gpu_worker).splitlines()
    assert len(lines) - len(gpu_worker.gpu_worker.__doc__.splitlines()) < 80


# Each helper by itself.


def test_extract_checkpoint_config(tmp_path):
    given = {"checkpoint_seq_threshold": 7, "checkpoint_time_threshold": 2, "checkpoint_key": "k"}
    found = gpu_worker._extract_checkpoint_config(given, tmp_path / "shards")
    assert found == {
        "enable_checkpointing": True,
        "force_restart": False,
        "checkpoint_base_dir": tmp_path / "checkpoints",
        "checkpoint_seq_threshold": 7,
        "checkpoint_time_threshold": 2.0,
        "checkpoint_dir": tmp_path / "checkpoints/k",
    }
    asked = {"enable_checkpointing": False, "force_restart": True, "checkpoint_base_dir": "else"}
    found |= asked | {"checkpoint_base_dir": Path("else"), "checkpoint_dir": Path("else/k")}
    assert gpu_worker._extract_checkpoint_config(given | asked, tmp_path / "shards") == found


@pytest.mark.parametrize("name", ["checkpoint_seq_threshold", "checkpoint_time_threshold"])
def test_extract_checkpoint_config_names_what_is_missing(name, tmp_path):
    given = {"checkpoint_seq_threshold": 7, "checkpoint_time_threshold": 2}
    del given[name]
    with pytest.raises(ConfigError, match=name):
        gpu_worker._extract_checkpoint_config(given, tmp_path)


def test_load_checkpoint_manifest(tmp_path, caplog):
    def load(enabled: bool) -> CheckpointManifest | None:
        return gpu_worker._load_checkpoint_manifest(3, enabled, tmp_path, LOGGER)

    assert load(True) is None
    manifest = replace(read_manifest(GOLDEN), rank=3)
    write_manifest(tmp_path / "shard_3", manifest)
    assert load(True) == manifest
    assert load(False) is None
    path = tmp_path / "shard_3/manifest.json"
    path.write_text(path.read_text()[:-9])
    assert load(True) is None
    assert [p.name for p in path.parent.iterdir()] == ["manifest.json.damaged"]
    assert f"{path}: damaged manifest" in caplog.text
    assert "set aside as manifest.json.damaged" in caplog.text


def fill(folder: Path, digests: list[bytes]) -> np.ndarray:
    """Two blocks of rows of 4 values, one row a digest; returns the rows."""
    rows = np.arange(4 * len(digests), dtype=np.float32).reshape(-1, 4)
    half = len(digests) // 2
    for part in (slice(None, half), slice(half, None)):
        block = np.frombuffer(b"".join(digests[part]), np.uint8).reshape(-1, 16)
        flags = np.zeros(len(block), np.uint8)
        write_next_block(folder, block, rows[part], flags, batches=2)
    return rows


def test_resume_gives_ids_in_the_order_of_their_rows(tmp_path):
    def resume(force: bool = False) -> tuple[Any, Any]:
        return gpu_worker._resume_from_existing_checkpoints(0, tmp_path, force, LOGGER)

    ids, rows = resume()
    assert (list(ids), rows) == ([], None)
    digests = [digest(b"M" * n) for n in range(1, 8)]
    written = fill(tmp_path / "shard_0", digests)
    ids, rows = resume()
    assert isinstance(ids, collections.abc.Set)
    assert list(ids) == [d.hex() for d in digests]
    assert isinstance(rows, np.memmap)
    np.testing.assert_array_equal(rows, written)
    ids, rows = resume(force=True)
    assert (list(ids), rows, list_blocks(tmp_path / "shard_0")) == ([], None, [])


def test_resume_refuses_the_old_format(tmp_path):
    (tmp_path / "batch_7.done").touch()
    with pytest.raises(RuntimeError, match="move the folder away or remove it, then run again"):
        gpu_worker._resume_from_existing_checkpoints(0, tmp_path, False, LOGGER)
    (tmp_path / "shard_1").mkdir()
    ids, rows = gpu_worker._resume_from_existing_checkpoints(0, tmp_path, False, LOGGER)
    assert (list(ids), rows) == ([], None)


def test_filter_of_a_shards_index(project):
    def load(resumed: Any, rank: int = 0, world_size: int = 1) -> list[int]:
        path = project.index()
        return gpu_worker._load_and_filter_index(rank, world_size, path, resumed, LOGGER)

    shard = read_shard_index(project.index())
    ids = [d.tobytes().hex() for d in shard.digests]
    assert load(set()) == list(range(len(SEQUENCES)))
    assert load({ids[0], ids[5], "unknown"}) == [1, 2, 3, 4, *range(6, len(SEQUENCES))]
    assert load(dict.fromkeys(ids).keys()) == []
    assert all(type(row) is int for row in load(set()))
    for rank, world_size in ((1, 2), (0, 2)):
        with pytest.raises(IndexFormatError, match=f"is rank 0 of 1, not {rank} of {world_size}"):
            load(set(), rank, world_size)


def test_filter_of_a_whole_index(project):
    path = project.results / "index.parquet"
    resumed = {digest(SEQUENCES[4].encode()).hex()}
    seen = []
    for rank in range(3):
        mine = list(range(rank, len(SEQUENCES), 3))
        if rank == 1:
            mine.remove(4)
        found = gpu_worker._load_and_filter_index(rank, 3, path, resumed, LOGGER)
        assert found == sorted(mine, key=lambda row: (-len(SEQUENCES[row]), row))
        seen += found
    assert len(seen) == len(SEQUENCES) - 1
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(IndexFormatError, match=str(path)):
        gpu_worker._load_and_filter_index(0, 3, path, set(), LOGGER)


@pytest.mark.parametrize(
    ("config", "layers"),
    [({"precision": "fp32"}, 4), ({"embedding": {"precision": "auto", "layer": 1}}, 1)],
)
def test_load_model(config, layers, prepared_model, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    device = torch.device("cpu")
    given = config | {"model": str(prepared_model)}
    model, convert = gpu_worker._load_model(given, device, LOGGER)
    assert caplog.messages == ["the model is on cpu in fp32"]
    assert isinstance(model, Esm2) and not model.training
    assert len(model.layers) == layers
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    (tokens,) = convert([b"MAK"])
    assert (tokens.shape, tokens.dtype) == ((5,), np.int64)
    with pytest.raises(ModelError, match="missing.json"):
        gpu_worker._load_model(given | {"model": str(tmp_path / "missing.json")}, device, LOGGER)


def test_load_model_asks_should_use_fp16(prepared_model, monkeypatch):
    monkeypatch.setattr("seqembed.settings.precision.should_use_fp16", lambda *_: True)
    config = {"model": str(prepared_model), "embedding": {"precision": "auto"}}
    model, _ = gpu_worker._load_model(config, torch.device("cpu"), LOGGER)
    assert model.embedding.weight.dtype == torch.float16


def test_save_shard_puts_rows_in_input_order(project, tmp_path):
    folder, shard = tmp_path / "shard_0", read_shard_index(project.index())
    fields = {"rank": 0, "world_size": 1, "shard_fingerprint": shard.fingerprint, "width": 4}
    begin(folder, project.index(), **fields)
    rows, ids = fill(folder, [d.tobytes() for d in shard.digests]), to_hex(shard.digests)
    # All but 10 are resumed, these in two parts.
    given = [rows[-10:-7], rows[-7:]], ids[-10:], dict.fromkeys(ids[:-10]).keys(), rows[:-10]
    path = gpu_worker._save_shard(0, folder, *given, LOGGER)
    assert path == folder / "shard_0.h5"
    with h5py.File(path) as file:
        assert [i.decode() for i in file["sequence_ids"]] == [f"s{n}" for n in range(40)]
        assert file["lengths"][:].tolist() == [len(s) for s in SEQUENCES]
        for place, row in enumerate(shard.rows):
            expected = np.arange(4 * place, 4 * place + 4)
            np.testing.assert_array_equal(file["embeddings"][row], expected)
            assert file["digests"][row].tobytes() == shard.digests[place].tobytes()


@pytest.mark.parametrize(
    ("error", "status", "logged"),
    [
        (InterruptedRun("stop"), "interrupted", "interrupted"),
        (ConfigError("wrong"), "failed", "the worker ends: ConfigError"),
        (OSError(28, "full"), "failed", "the worker ends: OSError"),
        (MemoryError(), "failed", "the worker ends: MemoryError"),
    ],
)
def test_an_error_that_a_user_can_mend_has_no_traceback(error, status, logged, caplog):
    caplog.set_level(logging.INFO)
    results: queue.Queue[dict[str, Any]] = queue.Queue()
    gpu_worker._report_error(5, error, results, LOGGER)
    found = results.get_nowait()
    assert (found["rank"], found["status"]) == (5, status)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("INFO", logged) and not record.exc_info


@pytest.mark.parametrize("error", [KeyError("x"), torch.AcceleratorError("CUDA error")])
def test_another_error_has_its_traceback(error, caplog):
    gpu_worker._report_error(5, error, queue.Queue(), LOGGER)
    (record,) = caplog.records
    assert record.levelname == "ERROR" and record.exc_info[1] is error


# The worker as a whole. Processes come from a server that has PyTorch imported already.


@pytest.fixture
def run(context, project):
    """Runs a worker of `project` to its end."""

    def run_worker(fault: Any = None, **changes: Any) -> Outcome:
        return WorkerProcess(context, project, fault, **changes).finish()

    return run_worker


@pytest.fixture(scope="module")
def unsaved(context, prepared_model, tmp_path_factory) -> Project:
    """A project whose worker was killed when the rows of all sequences were in blocks."""
    project = worker_runs.make_project(tmp_path_factory.mktemp("unsaved"), prepared_model)
    fault = worker_runs.killed_before_the_shard
    assert WorkerProcess(context, project, fault).finish() == Outcome(None, -9)
    assert rows_on_disk(project) == len(SEQUENCES)
    assert len(list_blocks(project.checkpoints())) > 8
    return project


@pytest.fixture(scope="module")
def undisturbed(context, prepared_model, tmp_path_factory) -> Project:
    project = worker_runs.make_project(tmp_path_factory.mktemp("undisturbed"), prepared_model)
    outcome = WorkerProcess(context, project).finish()
    assert outcome.exit_code == 0, project.log.read_text()
    return project


def complete(outcome: Outcome, project: Project, *, computed: int) -> None:
    """Assert that a worker finished, and itself computed `computed` sequences."""
    assert outcome == Outcome(
        {
            "rank": 0,
            "status": "complete",
            "shard_path": str(project.output / "shard_0.h5"),
            "device": "cpu",
            "num_sequences": len(SEQUENCES),
            "checkpointing_enabled": True,
            "resumed_sequences": len(SEQUENCES) - computed,
            "computed": computed,
            "reused": 0,
            "quarantined": 0,
        },
        0,
    )


def rows_on_disk(project: Project) -> int:
    return sum(len(read_block(path).rows) for path in list_blocks(project.checkpoints()))


def test_a_complete_shard(undisturbed, context):
    folder = undisturbed.checkpoints()
    with h5py.File(undisturbed.output / "shard_0.h5") as file:
        assert file["embeddings"].shape == (len(SEQUENCES), WIDTH)
        assert np.isfinite(file["embeddings"][:]).all()
        assert dict(file.attrs)["rank"] == 0
    assert os.path.samefile(folder / "shard_0.h5", undisturbed.output / "shard_0.h5")
    assert {p.name for p in folder.iterdir()} == {"index.parquet", "manifest.json", "shard_0.h5"}
    (recipe,) = undisturbed.results.glob("recipes/*.json")
    shard = read_shard_index(undisturbed.index()).fingerprint
    assert folder.parent.name == f"{read_recipe(recipe).fingerprint[:12]}-{shard[:12]}"
    manifest = read_manifest(folder)
    assert (manifest.token_budget, manifest.shard_fingerprint) == (512, shard)
    assert not [p for p in undisturbed.results.rglob("*") if p.name.startswith(".")]


@pytest.fixture
def begun(project, unsaved) -> Project:
    """The project, with blocks of all its sequences."""
    shutil.copytree(unsaved.results / "checkpoints", project.results / "checkpoints")
    return project


def test_a_spawned_worker_gives_the_same_bytes(project, undisturbed):
    outcome = WorkerProcess(worker_runs.get_context("spawn"), project).finish()
    complete(outcome, project, computed=len(SEQUENCES))
    assert project.content() == undisturbed.content()


@pytest.mark.parametrize("budget", [1, "auto"])
def test_the_budget_changes_no_bit(budget, run, project, undisturbed):
    complete(run(token_budget=budget), project, computed=len(SEQUENCES))
    assert project.content() == undisturbed.content()


def test_an_empty_shard_has_no_rows_of_full_width(context, prepared_model, tmp_path):
    project = worker_runs.make_project(tmp_path, prepared_model, ["MK"], world_size=2)
    outcome = WorkerProcess(context, project, rank=1).finish()
    assert (outcome.exit_code, outcome.status["num_sequences"]) == (0, 0)
    with h5py.File(project.output / "shard_1.h5") as file:
        assert file["embeddings"].shape == (0, WIDTH)
        assert file["sequence_ids"].shape == (0,)


@pytest.mark.parametrize("budget", [300, "auto"])
def test_a_killed_worker_goes_on_from_its_blocks(budget, run, project, undisturbed):
    assert run(worker_runs.killed_after_a_block) == Outcome(None, -9)
    assert not project.output.exists()
    done = rows_on_disk(project)
    assert 0 < done < len(SEQUENCES) / 2
    complete(run(token_budget=budget), project, computed=len(SEQUENCES) - done)
    assert read_manifest(project.checkpoints()).token_budget == (300 if budget == 300 else 512)
    assert project.content() == undisturbed.content()


@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_writes_a_checkpoint_at_the_next_batch(times, run, project, undisturbed):
    fault = partial(worker_runs.terminated_in_third_batch, times)
    outcome = run(fault, checkpoint_seq_threshold=10**6)
    assert outcome.exit_code == 143
    assert (outcome.status["rank"], outcome.status["status"]) == (0, "interrupted")
    (block,) = list_blocks(project.checkpoints())
    assert (read_block(block).first, read_block(block).last) == (0, 2)
    done = rows_on_disk(project)
    complete(run(), project, computed=len(SEQUENCES) - done)
    assert project.content() == undisturbed.content()


@pytest.mark.timing
def test_sigterm_writes_what_is_finished_before_a_long_batch_ends(context, project):
    fault = partial(worker_runs.terminated_in_third_batch, seconds=600)
    worker = WorkerProcess(context, project, fault, checkpoint_seq_threshold=10**6, threads=2)
    deadline = time.monotonic() + 60
    while not list(project.results.glob("checkpoints/*/shard_0/batch_*.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker.process.kill()
    assert worker.finish() == Outcome(None, -9)


def test_sigterm_before_the_model_is_loaded(run, project):
    outcome = run(worker_runs.terminated_before_the_model)
    assert (outcome.status["status"], outcome.exit_code) == ("interrupted", 143)
    assert not (project.results / "checkpoints").exists()


def test_the_log_counts_what_is_computed_again_in_fp32(run, project, undisturbed):
    complete(run(worker_runs.one_value_not_finite), project, computed=len(SEQUENCES))
    assert project.content() == undisturbed.content()
    assert "fp32, since values were not finite: 1 sequence\n" in project.log.read_text()


def test_a_model_that_loads_in_a_thread_gives_the_same_bytes(run, project, undisturbed):
    complete(run(worker_runs.loads_as_for_a_gpu), project, computed=len(SEQUENCES))
    assert project.content() == undisturbed.content()


def test_sigterm_while_the_model_loads_in_a_thread(run, project):
    outcome = run(worker_runs.terminated_while_the_model_loads)
    assert (outcome.status["status"], outcome.exit_code) == ("interrupted", 143)
    assert list_blocks(project.checkpoints()) == []


def test_a_damaged_block_costs_its_own_sequences_only(run, begun, undisturbed):
    block = list_blocks(begun.checkpoints())[3]
    lost = len(read_block(block).rows)
    flip(block, -5)
    complete(run(), begun, computed=lost)
    assert begun.content() == undisturbed.content()
    assert f"{block}: damaged checkpoint file (its checksum" in begun.log.read_text()
    assert "set aside as batch_00003.safetensors.damaged" in begun.log.read_text()
    shutil.rmtree(begun.output)
    complete(run(), begun, computed=0)
    assert begun.content() == undisturbed.content()


@pytest.mark.parametrize("first", [0, 1])
def test_nothing_is_computed_beside_the_missing_rows(first, run, begun, undisturbed, tmp_path):
    pending = list(range(first, len(SEQUENCES), 2))
    worker_runs.forget(begun, pending)
    complete(run(partial(worker_runs.note_tokens, tmp_path / "tokens")), begun, computed=20)
    assert begun.content() == undisturbed.content()
    computed = [int(line) for line in (tmp_path / "tokens").read_text().split()]
    missing = int((read_shard_index(begun.index()).tokens[pending] + 2).sum())
    # Only the last batch is too small, and filled up.
    assert missing <= sum(computed) < missing + MIN_BATCH_TOKENS
    assert min(computed[:-1]) > MIN_BATCH_TOKENS


def test_new_headers_cost_nothing(run, begun, undisturbed):
    worker_runs.make_project(begun.folder, begun.model, prefix="renamed")
    complete(run(), begun, computed=0)
    rows, ids = begun.content()
    assert rows == undisturbed.content()[0]
    assert ids == [b"renamed%d" % n for n in range(len(SEQUENCES))]


@pytest.mark.parametrize("prefix", ["s", "renamed"])
def test_a_finished_shard_is_linked_again_or_gets_its_new_ids(prefix, run, project, undisturbed):
    shutil.copytree(undisturbed.results, project.results, dirs_exist_ok=True)
    shutil.rmtree(project.output)
    worker_runs.make_project(project.folder, project.model, prefix=prefix)
    kept = project.checkpoints() / "shard_0.h5"
    inode = kept.stat().st_ino
    complete(run(), project, computed=0)
    assert os.path.samefile(kept, project.output / "shard_0.h5")
    assert (kept.stat().st_ino == inode) == (prefix == "s")
    rows, ids = project.content()
    assert rows == undisturbed.content()[0]
    assert ids == [f"{prefix}{n}".encode() for n in range(len(SEQUENCES))]


def test_force_restart_computes_all_again(run, begun, undisturbed):
    complete(run(force_restart=True), begun, computed=len(SEQUENCES))
    assert begun.content() == undisturbed.content()


def test_without_checkpointing_no_folder_stays(run, project, undisturbed):
    outcome = run(enable_checkpointing=False)
    assert (outcome.exit_code, outcome.status["checkpointing_enabled"]) == (0, False)
    assert project.content() == undisturbed.content()
    assert not (project.results / "checkpoints").exists()
    assert [p.name for p in project.output.iterdir()] == ["shard_0.h5"]


def test_two_workers_of_one_shard(context, project, undisturbed):
    workers = [WorkerProcess(context, project) for _ in range(2)]
    assert [worker.finish().exit_code for worker in workers] == [0, 0]
    assert project.content() == undisturbed.content()
    assert list_blocks(project.checkpoints()) == []


def test_rows_of_an_earlier_result_are_taken(run, project, undisturbed):
    shutil.copytree(undisturbed.folder, project.folder, dirs_exist_ok=True)
    index, shards = project.results / "index.parquet", [project.output / "shard_0.h5"]
    result = project.results / "embeddings.h5"
    remove_merged(project.results, merge(index, shards, result, LOGGER).recipe)
    worker_runs.make_project(project.folder, project.model, [*SEQUENCES, "MKV", "MKVV"])
    for computed in (2, 0, 2):
        outcome = run()
        assert outcome.exit_code == 0
        counts = ("computed", "resumed_sequences", "reused", "num_sequences")
        expected = [computed, 2 - computed, len(SEQUENCES), len(SEQUENCES) + 2]
        assert [outcome.status[name] for name in counts] == expected
        # The shard has what was computed, and names where the other rows are.
        assert project.content()[1] == [b"s40", b"s41"]
        shutil.rmtree(project.output)
        if computed == 0:
            flip(project.checkpoints() / "shard_0.h5")
    assert run().exit_code == 0
    merge(index, shards, result, LOGGER)
    with h5py.File(result) as file:
        rows = file["embeddings"][:]
    assert rows.tobytes().startswith(undisturbed.content()[0])
    assert np.isfinite(rows).all() and len(rows) == len(SEQUENCES) + 2


# Failures.

FAILURES = {
    worker_runs.accelerator_error_in_third_batch: (
        {"error": "cuda_runtime", "retry_recommended": True, "circuit_breaker": True},
        "AcceleratorError: CUDA error",
    ),
    worker_runs.disk_full_at_the_third_block: (
        {"error": "generic_error", "retry_recommended": False},
        "[Errno 28] No space left on device",
    ),
}


@pytest.mark.parametrize("fault", FAILURES, ids=lambda fault: fault.__name__)
def test_a_failure_is_reported_by_type_and_keeps_finished_rows(fault, run, project, undisturbed):
    outcome = run(fault)
    expected, message = FAILURES[fault]
    assert outcome.exit_code == 1
    found = dict(outcome.status)
    text = found.pop("error_message")
    assert text.startswith(message) and len(text) <= 2000
    assert found == {"rank": 0, "status": "failed"} | expected
    # What a user can mend has no traceback; torch's errors without one of our types have.
    bug = expected["error"] in ("cuda_runtime", "unexpected_error")
    assert ("Traceback" in project.log.read_text()) is bug
    done = rows_on_disk(project)
    assert len(list_blocks(project.checkpoints())) == 2
    complete(run(), project, computed=len(SEQUENCES) - done)
    assert project.content() == undisturbed.content()


def failed(outcome: Outcome, message: str, error: str = "generic_error") -> None:
    assert (outcome.exit_code, outcome.status["status"]) == (1, "failed")
    assert outcome.status["error"] == error
    assert message in outcome.status["error_message"]


def test_a_model_without_memory_in_its_thread_is_reported_as_such(run):
    failed(run(worker_runs.without_memory_for_the_model), "Tried to allocate", "cuda_oom")


@pytest.mark.parametrize("threshold", [1, 10**6])
def test_weights_that_rotted_give_no_row(threshold, run, project, undisturbed):
    """A bit of a disk that errs: neither size nor time tells of it."""
    model = copy_model(project)
    project = replace(project, model=model)
    weights = Path(read_prepared(model).weights)
    flip(weights, -2)
    os.utime(model, (2**32, 2**32))
    outcome = run(model=str(model), checkpoint_seq_threshold=threshold)
    assert (outcome.status["status"], outcome.exit_code) == ("failed", 1)
    assert (
        f"{weights}: changed since it was prepared; put the old" in outcome.status["error_message"]
    )
    assert list_blocks(project.checkpoints()) == []
    flip(weights, -2)
    complete(run(model=str(model)), project, computed=len(SEQUENCES))
    assert project.content() == undisturbed.content()


def test_weights_that_cannot_be_read_again_are_named(run, project):
    project = replace(project, model=copy_model(project))
    outcome = run(worker_runs.weights_gone_when_loaded, model=str(project.model))
    assert "cannot be read again ([Errno 2]" in outcome.status["error_message"]
    assert list_blocks(project.checkpoints()) == []


def copy_model(project: Project) -> Path:
    """The project's model, prepared again from a copy of its own."""
    shutil.copytree(worker_runs.BUNDLED_MODEL, project.folder / "copy")
    prepare_model("random", str(project.folder / "copy"), project.folder / "copy.json", LOGGER)
    return project.folder / "copy.json"


def test_truncated_sequences_are_flagged_and_equal_their_beginnings(run, context, project):
    embedding = worker_runs.EMBEDDING | {"max_length": 200, "long_sequences": "truncate"}
    assert run(embedding=embedding).exit_code == 0
    with h5py.File(project.output / "shard_0.h5") as file:
        rows, flags = file["embeddings"][:], file["flags"][:].tolist()
    assert flags == [2 if len(s) > 200 else 0 for s in SEQUENCES]
    again = worker_runs.make_project(
        project.folder / "cut", project.model, [s[:200] for s in SEQUENCES]
    )
    assert WorkerProcess(context, again, embedding=embedding).finish().exit_code == 0
    np.testing.assert_array_equal(np.frombuffer(again.content()[0], "f4").reshape(-1, WIDTH), rows)


def test_a_wrong_rank_is_refused(context, prepared_model, tmp_path):
    project = worker_runs.make_project(tmp_path, prepared_model, world_size=2)
    outcome = WorkerProcess(context, project, rank=1, index=project.index(0)).finish()
    failed(outcome, "is rank 0 of 2, not 1 of 2")


def test_checkpoints_of_an_older_program_are_not_trusted(run, begun):
    folder = begun.checkpoints()
    shutil.rmtree(folder)
    (folder.parent / "batch_1.done").touch()
    failed(run(), "holds checkpoints of an older program")
    assert {p.name for p in folder.parent.iterdir()} == {"batch_1.done", "lock"}


@pytest.mark.parametrize("damage", ["emptied", "flipped"])
def test_a_damaged_manifest_forgets_its_budget_only(damage, run, begun, undisturbed):
    path = begun.checkpoints() / "manifest.json"
    fingerprint = read_manifest(path.parent).shard_fingerprint
    other = path.read_text().replace(fingerprint, "0f"[fingerprint[0] == "0"] + fingerprint[1:])
    path.write_text("{}" if damage == "emptied" else other)
    complete(run(), begun, computed=0)
    assert "damaged manifest" in begun.log.read_text()
    assert begun.content() == undisturbed.content()


def test_blocks_of_another_recipe_do_not_count(run, begun):
    folder = begun.checkpoints()
    write_manifest(folder, replace(read_manifest(folder), recipe_fingerprint="0" * 64))
    failed(run(), "holds rows of another recipe or shard")
    assert not begun.output.exists()
