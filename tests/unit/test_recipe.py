"""The recipe: one for all workers of a request, and a fingerprint that never changes."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from described_models import t5_model
from known_files import KNOWN_RECIPE, OTHER_VALUES
from worker_runs import EMBEDDING

from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError, DeviceError, RecipeError
from seqembed.models.architectures import Esm2Architecture
from seqembed.models.prepared import PreparedModel
from seqembed.settings.recipe import Recipe, read_recipe
from seqembed.settings.request import Request
from seqembed.storage.json_files import add_checksum
from seqembed.worker.recipe_choice import adopt_recipe

CPU = torch.device("cpu")
ENVIRONMENT = EnvConfig.from_environ({})
REQUEST = Request(**EMBEDDING)
MODEL = PreparedModel(
    name="m",
    family="esm2",
    source="models/m",
    weights="models/m/model.safetensors",
    size=100,
    sha256="0f" * 32,
    architecture=Esm2Architecture(layers=3, width=32, heads=4, ffn_width=64),
    tokenizer="esm2",
    max_length=1022,
)

# Files of users look like this, the oldest without the checksum; keys are only ever added.
GOLDEN = """\
{
  "checksum": "CHECKSUM",
  "format_version": "1",
  "kind": "recipe",
  "layer": 3,
  "long_sequences": "error",
  "max_length": 1022,
  "numerics_version": 1,
  "pooling": "mean",
  "precision": "fp32",
  "storage": "float32",
  "tokenizer": "esm2",
  "weights": "WEIGHTS"
}
"""
UNSIGNED = GOLDEN.replace('  "checksum": "CHECKSUM",\n', "")


def adopt(folder: Path, request: Request = REQUEST, model: PreparedModel = MODEL) -> Recipe:
    return adopt_recipe(folder, request, model, CPU, ENVIRONMENT)


def test_fingerprints_never_change():
    recipe = replace(KNOWN_RECIPE, precision="fp16")
    assert recipe.fingerprint == "1d43eece56dcc35d6ee3ced39bb75a0cc1f5529666dee8529938bf0fbe5aba5d"
    assert MODEL.fingerprint == "5f3bb7147127f721b47796e22d917b579813abe5481f0134062e8d040d1e5db5"


def test_each_field_changes_the_fingerprint():
    # Of a CPU, `kernels` is left out.
    assert {*OTHER_VALUES} == {field.name for field in fields(Recipe)} - {"kernels"}
    others = [replace(KNOWN_RECIPE, **{name: v}) for name, vs in OTHER_VALUES.items() for v in vs]
    assert len({recipe.fingerprint for recipe in [KNOWN_RECIPE, *others]}) == 1 + len(others)


def test_the_first_worker_writes_the_golden_file_and_the_second_adopts_it(tmp_path):
    first = adopt(tmp_path / "recipes")
    (path,) = (tmp_path / "recipes").iterdir()
    # The name is made of what was asked for: another one would orphan users' checkpoints.
    assert path.name == "cd843bfaa160dd6f9495c5c6.json"
    written, checksum = path.read_text(), json.loads(path.read_text())["checksum"]
    golden = GOLDEN.replace("WEIGHTS", MODEL.fingerprint)
    assert written == golden.replace("CHECKSUM", checksum)
    assert adopt(tmp_path / "recipes") == first == read_recipe(path)
    assert path.read_text() == written


@pytest.mark.parametrize("later", [{}, {"later": 1}])
def test_recipes_without_a_checksum_and_with_later_keys_are_adopted(later, tmp_path):
    first = adopt(tmp_path)
    (path,) = tmp_path.iterdir()
    golden = json.loads(UNSIGNED.replace("WEIGHTS", MODEL.fingerprint))
    path.write_text(json.dumps(golden | later))
    assert adopt(tmp_path) == first


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": 3},
        {"pooling": "max"},
        {"per_residue": True},
        {"precision": "fp32"},
        {"storage": "float16"},
        {"long_sequences": "truncate"},
        {"long_sequences": "auto"},
        {"max_length": 1022},
    ],
)
def test_another_request_is_another_file(changes, tmp_path):
    adopt(tmp_path)
    adopt(tmp_path, replace(REQUEST, **changes))
    assert len(list(tmp_path.iterdir())) == 2


def test_other_weights_are_another_file_and_another_name_is_not(tmp_path):
    adopt(tmp_path)
    adopt(tmp_path, model=replace(MODEL, name="n", source="elsewhere", weights="x.safetensors"))
    assert len(list(tmp_path.iterdir())) == 1
    adopt(tmp_path, model=replace(MODEL, sha256="1f" * 32))
    assert len(list(tmp_path.iterdir())) == 2


def edit(folder: Path, **changes: Any) -> Path:
    """Change a recipe, as another version of the program might have written it."""
    (path,) = folder.iterdir()
    path.write_text(json.dumps(add_checksum(json.loads(path.read_text()) | changes)))
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [("layer", 2), ("per_residue", True), ("long_sequences", "truncate"), ("max_length", 5)],
)
def test_a_conflict_names_the_file_and_the_field(name, value, tmp_path):
    own = getattr(adopt(tmp_path), name)
    path = edit(tmp_path, **{name: value})
    with pytest.raises(RecipeError, match=f"{path}: {name} is {value!r}.* use {own!r}; .* remove"):
        adopt(tmp_path)


def test_auto_precision_is_adopted_and_no_other(tmp_path, monkeypatch):
    without_fp16 = replace(ENVIRONMENT, disable_fp16=True)
    assert adopt_recipe(tmp_path, REQUEST, MODEL, CPU, without_fp16).precision == "fp32"
    monkeypatch.setattr("seqembed.settings.precision.should_use_fp16", lambda *_: True)
    assert adopt(tmp_path).precision == "fp32"
    asked = replace(REQUEST, precision="fp32")
    adopt(tmp_path / "fp32", asked)
    edit(tmp_path / "fp32", precision="fp16")
    with pytest.raises(RecipeError, match="precision is 'fp16', but this worker would use 'fp32'"):
        adopt(tmp_path / "fp32", asked)


def test_a_precision_that_this_device_cannot_do_is_not_adopted(tmp_path):
    adopt(tmp_path)
    edit(tmp_path, precision="fp16")
    with pytest.raises(DeviceError, match="`precision: fp16` cannot be used on cpu"):
        adopt(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        GOLDEN.encode(),
        UNSIGNED.replace('"1"', '"2"').encode(),
        UNSIGNED.replace('"recipe"', '"model"').encode(),
        UNSIGNED.replace('  "layer": 3,\n', "").encode(),
        UNSIGNED.replace("fp32", "fp33").encode(),
    ],
)
def test_a_damaged_recipe_is_named(content, tmp_path):
    adopt(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=f"{path}: the recipe is damaged .*remove"):
        adopt(tmp_path)


def adopt_at_once(barrier: Any, results: Any, folder: Path) -> None:
    """Runs in a process of its own."""
    barrier.wait()
    try:
        results.put(adopt(folder).fingerprint)
    except RecipeError as error:
        results.put(str(error))


def test_processes_that_begin_at_once_agree(context, tmp_path):
    barrier, results = context.Barrier(4), context.Queue()
    arguments = (barrier, results, tmp_path)
    processes = [context.Process(target=adopt_at_once, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {adopt(tmp_path).fingerprint}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"layer": "last"}, {"layer": 3}),
        ({"layer": 0}, {"layer": 0}),
        ({"per_residue": True}, {"per_residue": True}),
        ({"long_sequences": "window"}, {"long_sequences": "window", "max_length": 1022}),
        ({"long_sequences": "full"}, {"long_sequences": "full", "max_length": 0}),
    ],
)
def test_a_request_is_resolved_and_adopted(asked, found, tmp_path):
    for _ in range(2):
        fields = adopt(tmp_path, replace(REQUEST, **asked)).fields()
        assert {name: fields[name] for name in found} == found


def test_a_layer_that_the_model_lacks_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="layer 4 is asked for, but .* has layers 0 "):
        adopt(tmp_path, replace(REQUEST, layer=4))
    assert not list(tmp_path.iterdir())


def test_a_token_that_the_model_lacks_is_refused(tmp_path):
    request = replace(REQUEST, pooling="cls")
    with pytest.raises(ConfigError, match="pooling is cls, but t5 has no token for the whole"):
        adopt(tmp_path, request, t5_model())
    assert not list(tmp_path.iterdir())
    assert adopt(tmp_path, request).pooling == "cls"


def adopt_on(device: str, folder: Path, kernels: str = "1", **request: Any) -> Recipe:
    wanted = replace(REQUEST, **request)
    device_ = torch.device(device)
    return adopt_recipe(folder, wanted, MODEL, device_, ENVIRONMENT, kernels)


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def test_a_cpus_recipe_says_nothing_of_device_and_kernels(tmp_path):
    recipe = adopt(tmp_path)
    assert (recipe.device, recipe.kernels) == ("cpu", "plain")
    assert not {"device", "kernels"} & {*recipe.fields()}
    (path,) = tmp_path.iterdir()
    assert not {"device", "kernels"} & {*json.loads(path.read_text())}


def test_a_gpus_recipe_has_another_fingerprint_for_each_of_its_kernels(hopper, tmp_path):
    found = [adopt_on("cuda", tmp_path / kernels, kernels) for kernels in ("1", "plain")]
    assert [recipe.fields()["kernels"] for recipe in found] == ["1", "plain"]
    found.append(adopt_on("cpu", tmp_path / "cpu", "plain"))
    fp32 = [replace(recipe, precision="fp32").fingerprint for recipe in found]
    assert len({*fp32}) == 3
    (path,) = (tmp_path / "1").iterdir()
    assert read_recipe(path) == found[0]


@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_rows_of_a_gpu_and_of_a_cpu_are_not_mixed(first, second, precision, hopper, tmp_path):
    kernels = {"cpu": "plain", "cuda": "1"}
    adopt_on(first, tmp_path, kernels[first], precision=precision)
    with pytest.raises(RecipeError, match=f"device is '{first}'.*would use '{second}'"):
        adopt_on(second, tmp_path, kernels[second], precision=precision)


def test_a_worker_takes_the_plain_steps_if_the_recipe_says_so_and_no_other_way(hopper, tmp_path):
    first = adopt_on("cuda", tmp_path / "a", "plain")
    assert adopt_on("cuda", tmp_path / "a", "1") == first
    adopt_on("cuda", tmp_path / "b", "1")
    with pytest.raises(RecipeError, match="kernels is '1', but this worker would use 'plain'"):
        adopt_on("cuda", tmp_path / "b", "plain")
