"""What a plan expects of workers: their device, their recipe, and how many run at once."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from described_models import dna_model, protein_model
from stand_in_gpus import Machine
from worker_runs import EMBEDDING

from seqembed.environment import EnvConfig
from seqembed.look import asked, expected
from seqembed.look.asked import Surroundings
from seqembed.look.expected import expect_device, expect_recipe, list_allowed
from seqembed.machine.devices import name_device
from seqembed.settings.recipe import Recipe, publish_recipe, recipe_path
from seqembed.settings.request import Request

NOWHERE = Path("nowhere")
PLAIN_ENVIRONMENT = EnvConfig.from_environ({})


def expect(
    wanted: Any, device: Any, folder: Path = NOWHERE, environ: Any = None, **changes: Any
) -> Recipe:
    request = Request(**EMBEDDING | changes)
    environment = EnvConfig.from_environ(environ or {})
    return expect_recipe(folder, request, protein_model(), wanted, device, environment)


def surround(environ: dict[str, str], **changes: Any) -> Surroundings:
    settings = {"cores": None, "gpu": None, "jobs": None, "cluster": False} | changes
    folders = dict.fromkeys(("results", "models", "speeds"), NOWHERE)
    return Surroundings(
        token_budget="auto",
        checkpoint_sequences=1,
        environment=EnvConfig.from_environ(environ),
        **folders | settings,
    )


@pytest.mark.parametrize(
    ("wanted", "gpus", "device"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cuda", 0, "cuda"), ("cpu", 2, "cpu")],
)
def test_the_device_is_that_of_this_machine(wanted, gpus, device):
    assert expect_device(wanted, gpus) == device


def test_auto_is_the_precision_of_the_device():
    found = [expect("auto", device) for device in ("cpu", "cuda")]
    assert [(r.device, r.precision, r.kernels) for r in found] == [
        ("cpu", "fp32", "plain"),
        ("cuda", "fp16", "1"),
    ]
    no_fp16 = {"SEQEMBED_DISABLE_FP16": "1"}
    assert expect("cuda", "cuda", environ=no_fp16).precision == "fp32"
    assert expect("cuda", "cuda", precision="bf16").precision == "bf16"


def test_the_recipe_of_an_earlier_worker_counts(tmp_path):
    other = replace(expect("auto", "cuda"), kernels="plain")
    path = recipe_path(tmp_path, Request(**EMBEDDING), protein_model())
    publish_recipe(other, path)
    assert expect("auto", "cpu", tmp_path) == other
    assert expect("cuda", "cuda", tmp_path) == other
    assert expect("cpu", "cpu", tmp_path).device == "cpu"
    path.write_text("{}")
    assert expect("auto", "cpu", tmp_path).device == "cpu"


def test_bf16_is_auto_where_a_familys_authors_use_it():
    model, request = dna_model(), Request(**EMBEDDING | {"long_sequences": "auto"})
    recipe = expect_recipe(NOWHERE, request, model, "cuda", "cuda", PLAIN_ENVIRONMENT)
    assert recipe.precision == model.facts.half


@pytest.mark.parametrize(("visible", "count"), [(None, 2), ("1", 1), ("", 0), ("nonsense", 2)])
def test_gpus_that_are_not_visible_do_not_count(monkeypatch, tmp_path, visible, count):
    machine = Machine(tmp_path)
    for minor in range(2):
        machine.add(f"0000:0{minor}:00.0", minor, f"GPU-{minor}")
    monkeypatch.setattr(expected, "find_gpus", machine.gpus)
    allowed = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert len(list_allowed(EnvConfig.from_environ(allowed))) == count


@pytest.mark.parametrize(
    ("visible", "name"),
    [(None, "Card 0"), ("1,0", "Card 1"), ("", ""), (f"MIG-{uuid.UUID(int=0)}", "")],
)
def test_the_card_is_the_first_that_is_allowed(monkeypatch, tmp_path, visible, name):
    machine = Machine(tmp_path)
    for minor in range(2):
        machine.add(f"0000:0{minor}:00.0", minor, f"GPU-{minor}", model=f"Card {minor}")
    monkeypatch.setattr(expected, "find_gpus", machine.gpus)
    monkeypatch.setattr(asked, "name_device", partial(name_device, proc=machine.proc))
    allowed = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert surround(allowed, asked="cuda").device_name("cuda") == name


@pytest.mark.parametrize(
    ("changes", "threads", "shards"),
    [
        ({"asked": "cpu", "cores": 8}, 2, 4),
        ({"asked": "cpu", "cores": 1}, 4, 1),
        ({"asked": "cpu", "cores": 8, "gpu": 2}, 1, 8),
        ({"asked": "auto", "cores": 8, "gpu": 1}, 1, 1),
        ({"asked": "auto", "cores": 8}, 1, 8),
        ({"asked": "cuda", "cores": 8, "gpu": 2}, 1, 2),
        ({"asked": "cuda", "cores": 8}, 1, 8),
        ({"asked": "cuda", "cluster": True, "jobs": 100}, 1, 100),
        ({"asked": "cuda", "cluster": True, "jobs": 100, "gpu": 4}, 1, 4),
    ],
)
def test_cores_gpus_and_jobs_limit_what_runs_at_once(changes: dict[str, Any], threads, shards):
    around = surround({"CUDA_VISIBLE_DEVICES": ""}, **changes)
    assert around.at_once(threads) == shards
    assert (around.device_name("cpu") == "") is around.cluster
