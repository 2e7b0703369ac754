"""What a worker settles before its first batch."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import worker_runs
from torch import nn
from worker_runs import SEQUENCES, Project

from seqembed import gpu_worker
from seqembed.checkpoints.manifest_and_failures import (
    CheckpointManifest,
    Failures,
    Suspect,
    write_failures,
)
from seqembed.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    IndexFormatError,
    ModelError,
    RecipeError,
)
from seqembed.inference.batches import Filling
from seqembed.inference.failure_tracker import FailureTracker
from seqembed.inference.graphs import EncoderGraphs
from seqembed.inference.loader import BatchLoader
from seqembed.inference.rows import BatchRows
from seqembed.kernels.names import FUSED, PLAIN
from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.families import FAMILIES
from seqembed.models.load import load_prepared
from seqembed.models.prepared import read_prepared
from seqembed.models.vocabularies import ESM
from seqembed.settings.recipe import publish_recipe, read_recipe
from seqembed.settings.token_budget import TOKENS
from seqembed.worker import decisions, recipe_choice
from seqembed.worker.decisions import Run, open_run
from seqembed.worker.device import choose_device

encode_all = ResidueTokenizer(ESM).encode_all
LOGGER = logging.getLogger("seqembed.tests")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def open_project(project: Project, **changes: Any) -> Run:
    return open_run(project.index(), project.output, project.config(**changes), LOGGER)


def open_tracker(run: Run, project: Project) -> FailureTracker:
    folder = project.folder / "checkpoints"
    folder.mkdir(exist_ok=True)
    return run.open_tracker(folder, project.index(), {})


def change_recipe(project: Project, **changes: str) -> None:
    """Change fields of the recipe that a run has written."""
    (path,) = (project.results / "recipes").iterdir()
    changed = replace(read_recipe(path), **changes)
    path.unlink()
    publish_recipe(changed, path)


def test_a_run_is_settled(project, monkeypatch):
    monkeypatch.delenv("SEQEMBED_DISABLE_FP16", raising=False)
    run = open_project(project, threads=2)
    assert torch.get_num_threads() == 2
    assert run.device == torch.device("cpu")
    assert run.model == read_prepared(project.model)
    assert (run.recipe.precision, run.recipe.max_length, run.recipe.layer) == ("fp32", 1022, 4)
    assert run.recipe.weights == run.model.fingerprint
    assert len(list((project.results / "recipes").iterdir())) == 1
    assert run.checkpoint_key == f"{run.recipe.fingerprint[:12]}-{run.shard.fingerprint[:12]}"
    assert sorted(run.shard.tokens.tolist()) == sorted(map(len, SEQUENCES))
    assert open_project(project, threads=1).recipe == run.recipe
    assert torch.get_num_threads() == 1


def load(
    run: Run, project: Project, rows: list[int], **changes: Any
) -> tuple[BatchLoader, int, int]:
    """The batches of `rows`, their tokens and their room; `changes` are made to the manifest."""
    manifest, tracker = replace(run.manifest(None), **changes), open_tracker(run, project)
    return run.load_batches(project.index(), rows, manifest, encode_all, tracker)


@pytest.mark.parametrize(
    ("policy", "tokens", "passes"),
    [("truncate", 102, 1), ("window", 5 * 102, 2), ("full", 302, 1)],
)
def test_long_sequences_are_read_by_the_policy(policy, tokens, passes, project):
    asked = {"long_sequences": policy, "max_length": 100}
    run = open_project(project, embedding=worker_runs.EMBEDDING | asked)
    budget = 320 if passes > 1 else tokens
    batches, total, room = load(run, project, [0], token_budget=budget)
    found = list(batches)
    assert [batch.positions for batch in found] == [[0]] * passes
    assert total == tokens == sum(batch.packing.bounds[len(batch.windows)] for batch in found)
    # A CPU computes at least 128 rows.
    assert room == passes * max(budget, 128)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"threads": 0}, ConfigError),
        ({"device": "cuda"}, DeviceError),
        ({"model": "none.json"}, ModelError),
        ({"embedding": worker_runs.EMBEDDING | {"precision": "fp16"}}, DeviceError),
        ({"embedding": worker_runs.EMBEDDING | {"max_length": 299}}, ConfigError),
    ],
)
def test_what_cannot_run_says_so_and_computes_nothing(changes, error, project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(error):
        open_project(project, **changes)
    assert not project.output.exists() and not (project.results / "checkpoints").exists()


def test_a_missing_index_is_named(project):
    project.index().unlink()
    with pytest.raises(IndexFormatError, match=str(project.index())):
        open_project(project)


def test_the_environment_is_looked_at(project, monkeypatch):
    monkeypatch.setenv("SEQEMBED_DISABLE_FP16", "perhaps")
    with pytest.raises(ConfigError, match="SEQEMBED_DISABLE_FP16"):
        open_project(project)


def test_choose_device(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("cpu", LOGGER) == torch.device("cpu")
    for asked in ("auto", "cuda"):
        assert choose_device(asked, LOGGER) == torch.device("cuda", 0)
    assert not caplog.records


@pytest.mark.parametrize(
    ("version", "reason", "advice"),
    [
        (None, "this PyTorch has no CUDA", "install a PyTorch"),
        ("13.0", "PyTorch finds no CUDA device", "see whether `nvidia-smi` lists"),
    ],
)
def test_without_cuda_auto_says_so_and_cuda_fails(version, reason, advice, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", version)
    assert choose_device("auto", LOGGER) == torch.device("cpu")
    assert caplog.messages == [f"{reason}: the CPU is used"]
    with pytest.raises(DeviceError, match=f"^device is cuda, but {reason}; {advice}.*device: cpu"):
        choose_device("cuda", LOGGER)


def test_the_supervisors_choice_of_the_cpu_is_followed_in_silence(project, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for visible, warnings in (("", 0), ("0", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert open_project(project, device="auto").device == torch.device("cpu")
        assert len(caplog.records) == warnings


@pytest.mark.parametrize(
    ("asked", "earlier", "budget"),
    [
        ("auto", None, TOKENS["cpu"]),
        ("auto", 777, 777),
        (512, None, 512),
        (512, 777, 512),
    ],
)
def test_the_budget_that_is_asked_for_wins(asked, earlier, budget, project):
    run = open_project(project, token_budget=asked)
    before = replace(run.manifest(None), token_budget=earlier) if earlier else None
    found = run.manifest(before)
    assert found == CheckpointManifest(
        rank=0,
        world_size=1,
        recipe_fingerprint=run.recipe.fingerprint,
        shard_fingerprint=run.shard.fingerprint,
        token_budget=budget,
        model="random",
        weights_sha256=run.model.sha256,
        width=64,
        recipe=run.recipe.fields(),
    )


@pytest.mark.parametrize(("device", "threads"), [("cpu", 1), ("cuda", 3)])
def test_sequences_are_encoded_on_all_threads_beside_a_gpu(device, threads, project, monkeypatch):
    monkeypatch.setattr(decisions, "choose_device", lambda *given: torch.device(device))
    monkeypatch.setattr(recipe_choice, "choose_kernels", lambda *given: PLAIN)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *given: (9, 0))
    monkeypatch.setenv("RAYON_NUM_THREADS", "")  # as it was, after the test
    monkeypatch.delenv("RAYON_NUM_THREADS")
    open_project(project, threads=3)
    assert os.environ["RAYON_NUM_THREADS"] == str(threads)


@pytest.mark.parametrize("kernels", [PLAIN, FUSED])
def test_the_kernels_that_the_recipe_names_compute_the_rows(kernels, project, monkeypatch):
    given = []

    def choose(*arguments):
        given.append(arguments)
        return kernels

    monkeypatch.setattr(recipe_choice, "choose_kernels", choose)
    run = open_project(project)
    ((_, cache, _, trial),) = given
    assert cache == project.model.parent.parent / "triton"
    assert trial.args == (run.model.architecture, torch.float32, run.device)
    assert run.recipe.kernels == run.resolved["kernels"] == kernels
    assert open_tracker(run, project)._even == (kernels == FUSED)
    config = project.config() | run.resolved
    model, exact = (
        gpu_worker._load_model(config | more, run.device, LOGGER)[0]
        for more in ({}, gpu_worker.FP32)
    )
    # What is computed again in fp32 was not tried by the fused steps.
    assert (model.kernels, exact.kernels) == (kernels, PLAIN)


@pytest.mark.parametrize(
    ("kernels", "precision", "tried"),
    [(PLAIN, "fp16", []), (FUSED, "fp32", [torch.float32]), (FUSED, "bf16", [torch.bfloat16])],
)
def test_what_the_recipe_names_is_tried(kernels, precision, tried, project, monkeypatch):
    """By `precision: auto`, this worker itself would compute in fp16."""
    found = []

    def choose(device, cache, logger, trial):
        found.append(trial.args[1])
        return FUSED

    monkeypatch.setattr(decisions, "choose_device", lambda *given: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *given: (9, 0))
    monkeypatch.setattr(recipe_choice, "choose_kernels", choose)
    recipe = open_project(project).recipe
    assert (found.pop(), recipe.precision) == (torch.float16, "fp16")
    change_recipe(project, kernels=kernels, precision=precision)
    run = open_project(project)
    assert found == tried
    assert (run.recipe.kernels, run.recipe.precision) == (kernels, precision)


def test_a_cpu_that_meets_a_gpus_recipe_says_what_differs(project):
    open_project(project)
    change_recipe(project, device="cuda", kernels=FUSED, precision="fp16")
    with pytest.raises(RecipeError, match="device is 'cuda', but this worker would use 'cpu'"):
        open_project(project)


def test_a_worker_never_rounds_to_tf32(project, monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    open_project(project)
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


@pytest.mark.parametrize(("precision", "budget"), [("fp16", 16_384), ("fp32", 4096)])
def test_the_automatic_budget_of_a_gpu_is_a_block_of_rows(precision, budget, project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A")
    run = replace(open_project(project, token_budget="auto"), device=torch.device("cuda", 0))
    run = replace(run, recipe=replace(run.recipe, device="cuda", precision=precision))
    assert run.manifest(None).token_budget == budget


def test_the_manifest_names_all_gpus_that_computed_the_shard(project, monkeypatch):
    run = open_project(project)
    assert run.manifest(None).device_name == ""
    run, manifest = replace(run, device=torch.device("cuda", 0)), None
    for name in ("NVIDIA A", "NVIDIA B", "NVIDIA A"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        manifest = run.manifest(manifest)
    assert manifest.device_name == "NVIDIA A, NVIDIA B"


@pytest.mark.parametrize(
    ("licence", "named"), [("MIT", ""), ("CC-BY-NC-SA-4.0", "CC-BY-NC-SA-4.0")]
)
def test_the_manifest_names_a_licence_that_forbids_commercial_use(
    licence, named, project, monkeypatch
):
    family = replace(FAMILIES["esm2"], licence=licence)
    monkeypatch.setitem(FAMILIES, "esm2", family)
    assert open_project(project).manifest(None).licence == named


@pytest.mark.parametrize(("budget", "warned"), [(2048, True), (8192, False), (8200, True)])
def test_a_gpu_is_asked_for_whole_blocks(budget, warned, project, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A")
    run = open_project(project, token_budget=budget)
    rows = list(range(len(SEQUENCES)))
    load(run, project, rows)
    assert "whole blocks" not in caplog.text
    load(replace(run, device=torch.device("cuda", 0)), project, rows)
    assert ("whole blocks of 4,096 rows" in caplog.text) == warned


@pytest.mark.parametrize("name", ["recipe_fingerprint", "shard_fingerprint"])
def test_checkpoints_of_another_recipe_or_shard_are_refused(name, project):
    run = open_project(project)
    with pytest.raises(CheckpointError, match=f"checkpoints/{run.checkpoint_key}: .*remove that"):
        run.manifest(replace(run.manifest(None), **{name: "0" * 64}))


def test_batches_hold_the_missing_rows_and_no_other(project):
    run, all_rows = open_project(project), list(range(len(SEQUENCES)))
    batches, tokens, _ = load(run, project, all_rows)
    plan = [batch.positions for batch in batches]
    assert sum(plan, []) == all_rows
    assert tokens == sum(run.shard.tokens + 2)
    for wanted in (all_rows[1::2], sum(plan[2:], []), []):
        batches, tokens, room = load(run, project, wanted)
        found = list(batches)
        assert sum((batch.positions for batch in found), []) == wanted
        assert tokens == sum(run.shard.tokens[wanted] + 2) == sum(batch.size for batch in found)
        budget = run.manifest(None).token_budget
        assert room == len(found) * budget
    batches, *_ = load(run, project, sum(plan[2:], []))
    assert [batch.positions for batch in batches] == plan[2:]


def test_a_crash_among_gaps_makes_suspects_of_its_batch_alone(project, caplog):
    run, rows = open_project(project), list(range(1, len(SEQUENCES), 2))
    batch = list(load(run, project, rows)[0])[2]
    count = len(batch.positions)
    assert batch.positions == list(range(batch.positions[0], batch.positions[-1] + 1, 2))
    open_tracker(run, project).note_in_flight([batch])
    crash = {"crash": {"reason": "the worker was killed by SIGSEGV", "memory": False}}
    tracker = run.open_tracker(project.folder / "checkpoints", project.index(), crash)
    assert f"each of the {count} sequences that it was computing" in caplog.text
    given = project.index(), rows, run.manifest(None), encode_all, tracker
    found = [batch.positions for batch in run.load_batches(*given)[0]]
    assert count > 1 and found[:count] == [[row] for row in batch.positions]
    assert sorted(sum(found, [])) == rows
    assert ([*tracker.suspects], tracker.given_up) == (batch.positions, set())


def test_suspects_come_first_and_apart_and_what_wants_memory_last(project):
    run = open_project(project)
    suspects = {
        36: Suspect(reason="r"),
        37: Suspect(reason="r"),
        11: Suspect(reason="r", failed=True, memory=True),
        20: Suspect(reason="r", failed=True, tries=1),
    }
    (project.folder / "checkpoints").mkdir()
    write_failures(project.folder / "checkpoints", Failures(suspects=suspects))
    rows = [row for row in range(len(SEQUENCES)) if row != 37]
    plan = [batch.positions for batch in load(run, project, rows)[0]]
    assert (plan[0], plan[1], plan[-1]) == ([20], [36], [11])
    others = [row for row in rows if row not in suspects]
    assert sum(plan[2:-1], []) == others


@pytest.mark.parametrize(("device", "background"), [("cpu", False), ("cuda", True)])
def test_a_gpu_does_not_wait_for_blocks(device, background, project):
    run, before = open_project(project), set(threading.enumerate())
    due = {"checkpoint_seq_threshold": 1, "checkpoint_time_threshold": 300.0}
    writer = replace(run, device=torch.device(device)).open_writer(project.folder / "b", due)
    writer.add(BatchRows(np.arange(1), np.zeros((1, 64), np.float32), np.zeros(1, np.uint8)))
    assert bool(set(threading.enumerate()) - before) == background
    writer.close()
    assert len(writer.ids) == 1


def test_a_model_begins_to_load_at_once_for_a_gpu_only(project):
    begun = threading.Event()
    loaded = nn.Identity(), None

    def load() -> tuple[nn.Module, Any]:
        begun.set()
        return loaded

    run = open_project(project)
    assert run.start_loading(load) is load
    finish = replace(run, device=torch.device("cuda")).start_loading(load)
    assert begun.wait(60)
    assert finish() is loaded


def test_an_error_of_loading_is_raised_where_the_model_is_needed(project):
    def fail() -> tuple[nn.Module, Any]:
        raise ModelError("damaged")

    run = replace(open_project(project), device=torch.device("cuda"))
    finish = run.start_loading(fail)
    with pytest.raises(ModelError, match="damaged"):
        finish()


@pytest.mark.parametrize(("batches", "at_once"), [(1, 1), (3, 3), (50, 4)])
def test_no_more_batches_are_computed_at_once_than_there_are(project, caplog, batches, at_once):
    run = open_project(project, threads=4)
    model = load_prepared(project.model, 1, torch.float32)
    with caplog.at_level(logging.INFO, LOGGER.name):
        manifest = run.manifest(None)
        run.open_runner(model, open_tracker(run, project), lambda: (model, None), manifest, batches)
    run.weights.require()
    assert f"at most 512 tokens a batch, {at_once} at once;" in caplog.text


@pytest.mark.parametrize(("budget", "said"), [(64, True), (512, False)])
def test_the_memory_of_the_longest_sequence_is_said(budget, said, project, monkeypatch, caplog):
    monkeypatch.setattr(decisions, "bytes_alone", lambda *given: given[2] * 10**7)
    run = open_project(project, token_budget=budget)
    model = load_prepared(project.model, 1, torch.float32)
    longest = run.policy.longest_read(run.shard.tokens)
    with caplog.at_level(logging.INFO, LOGGER.name):
        manifest = run.manifest(None)
        run.open_runner(model, open_tracker(run, project), lambda: (model, None), manifest, 1)
    run.weights.require()
    assert (f"the longest, of {longest} tokens, needs 3.0 GB" in caplog.text) == said


@pytest.mark.parametrize(
    ("budget", "limit", "has_graphs", "used", "needed"),
    [
        (512, None, False, False, "1.0 GB"),
        (512, None, True, True, "2.0 GB"),
        # Batches of several blocks have no graphs, nor any batch after memory ran out.
        (1025, None, True, False, "2.0 GB"),
        (512, 400, True, False, "1.0 GB"),
    ],
)
def test_the_memory_of_whole_blocks_and_of_graphs_is_counted(
    budget, limit, has_graphs, used, needed, project, monkeypatch, caplog
):
    run = open_project(project, threads=1, token_budget=budget)
    model = load_prepared(project.model, 1, torch.float32)
    graphs = EncoderGraphs(model, 1024, LOGGER, lambda: lambda work: work) if has_graphs else None
    monkeypatch.setattr(decisions, "open_graphs", lambda *_: graphs)
    monkeypatch.setattr(decisions, "bytes_a_token", lambda *_: 1_000_000)
    monkeypatch.setattr(decisions, "choose_filling", lambda *_: Filling(block=1024))
    manifest, tracker = run.manifest(None), open_tracker(run, project)
    tracker.known.token_limit = limit
    with caplog.at_level(logging.INFO, LOGGER.name):
        runner = run.open_runner(model, tracker, lambda: (model, None), manifest, 1)
    run.weights.require()
    assert runner._graphs is (graphs if used else None)
    assert f"need about {needed} of" in caplog.messages[-1]
    assert caplog.messages[-1].endswith("CUDA graphs") == used
