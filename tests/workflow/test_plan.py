"""What a run would do, and what is refused before it does anything."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from itertools import pairwise

import pytest
from driver import MODEL, PARTS, Place, copy_checkout, make_proteins, write_fasta

DATASETS = "datasets={mine: {fasta: my.faa, model: esm2_random}}"
MODELS = f"models={{esm2_random: {MODEL}}}"
PLAN = {"index": 1, "split": 1, "prepare_model": 1, "embed_shard": 2, "merge": 1, "all": 1}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A checkout as cloned, and beside its Snakefile one FASTA file."""
    checkout = copy_checkout(tmp_path_factory.mktemp("fresh"))
    for name in ("my.faa", "{sample}.faa"):
        write_fasta(checkout / name, make_proteins(4))
    return Place(checkout, checkout)


@pytest.fixture(scope="module")
def planned(fresh):
    return fresh.plan("--config", DATASETS, MODELS)


def test_a_fresh_checkout_says_what_to_write(fresh):
    outcome = fresh.plan(ok=False)
    assert "`datasets` is empty, so there is nothing to embed." in outcome.text
    assert "\n    datasets:\n      mine:\n        fasta: my.faa\n" in outcome.text
    assert "--config fasta=my.faa model=esm2_t33_650M_UR50D\n" in outcome.text


def test_one_dataset_plans_its_own_jobs_and_no_others(planned):
    assert planned.jobs == PLAN | {"total": sum(PLAN.values())}
    assert "Using workflow specific profile profiles/default" in planned.text


def test_the_slurm_profile_plans_the_same_jobs_and_says_what_each_asks_for(fresh, planned):
    assert (fresh.checkout / "profiles/slurm/config.yaml").read_text().count("# <<<") == 10
    profile = ("--dry-run", "--profile", "profiles/slurm")
    outcome = fresh.run(*profile, "--config", DATASETS, MODELS, cores=None)
    assert outcome.jobs == planned.jobs
    jobs = {
        rule: outcome.text.partition(f"\nrule {rule}:\n")[2].partition("\n[")[0]
        for rule in ("embed_shard", "merge")
    }
    for asked in ("mem_mb=32000", "slurm_partition=gpu", "runtime=720", "gpu=1"):
        assert asked in jobs["embed_shard"]
    for asked in ("mem_mb=8000", "slurm_partition=cpu", "slurm_account=me", "runtime=120"):
        assert asked in jobs["merge"]


def test_a_known_name_is_no_folder_of_the_working_directory(checkout, tmp_path):
    place = Place(checkout, tmp_path)
    name = "esm2_t33_650M_UR50D"
    write_fasta(tmp_path / "my.faa", make_proteins(4))
    shutil.copytree(checkout / MODEL, tmp_path / name)
    datasets = DATASETS.replace("esm2_random", name)
    sources = {}
    for models in ("models={}", f"models={{{name}: {name}}}"):
        text = place.plan("--printshellcmds", "--config", datasets, models).text
        assert (f"input: {name}/config.json" in text) == (models != "models={}")
        sources[models] = re.findall(r"--source=(\S+)", text)
    assert list(sources.values()) == [[name], [f"./{name}"]]


def list_commands(text: str, script: str) -> list[list[str]]:
    """The words of each command of this script that --printshellcmds shows."""
    commands = re.findall(r"^ +exec .*$", text.replace("\\\n", ""), re.MULTILINE)
    return [words for words in map(shlex.split, commands) if words[2].endswith(f"/{script}")]


def test_split_and_the_workers_are_given_earlier_results(fresh):
    known = "esm2_t6_8M_UR50D"
    own = {"a": "esm2_random", "b": "esm2_random, reuse: []", "c": f"{known}, reuse: x.h5"}
    entries = ", ".join(f"{name}: {{fasta: my.faa, model: {rest}}}" for name, rest in own.items())
    settings = (f"datasets={{{entries}}}", MODELS, "reuse=['-x.h5', '~/o d/*.h5', '$(y)']")
    text = fresh.plan("-p", "--config", *settings, "shards=1", "device=cpu").text
    expected = {
        "a": (["./-x.h5", "~/o d/*.h5", "$(y)"], ["results/b/store"]),
        "b": ([], ["results/a/store"]),
        "c": (["x.h5"], []),
    }
    found = {}
    for words in list_commands(text, "split.py"):
        begins = [words.index(f"--{key}") for key in ("reuse", "stores", "device", "output-dir")]
        reuse, stores, device = (words[a + 1 : b] for a, b in pairwise(begins))
        found[words[begins[-1] + 1].split("/")[1]] = (reuse, stores)
        assert device == ["cpu"]
    assert found == expected
    for words in list_commands(text, "embed_shard.py"):
        execution = json.loads(words[words.index("--execution") + 1])
        dataset = words[words.index("--output") + 1].split("/")[1]
        assert (execution["reuse"], execution["stores"]) == found.pop(dataset)
    assert not found


def test_the_stores_of_many_datasets_fit_into_one_argument(fresh, tmp_path):
    letters = random.Random(1)
    names = ["".join(letters.choices("abcdefgh", k=200)) for _ in range(700)]
    entry = {"fasta": "my.faa", "model": "esm2_random"}
    settings = {"datasets": dict.fromkeys(names, entry), "models": {"esm2_random": MODEL}}
    path = tmp_path / "many.json"
    path.write_text(json.dumps(settings))
    result = f"results/{names[0]}/embeddings.h5"
    text = fresh.plan(result, "-p", "--configfile", str(path)).text
    words, _ = list_commands(text, "embed_shard.py")
    execution = words[words.index("--execution") + 1]
    assert len(json.loads(execution)["stores"]) == 500
    assert len(execution) < 128 * 1024


def test_the_settings_of_many_datasets_fit_into_the_command_of_a_plan(fresh, tmp_path):
    names = ["".join(random.Random(n).choices("abcdefgh", k=200)) for n in range(300)]
    entry = {"fasta": "my.faa", "model": "esm2_random"}
    settings = {"datasets": dict.fromkeys(names, entry), "models": {"esm2_random": MODEL}}
    path = tmp_path / "many.json"
    path.write_text(json.dumps(settings))
    text = fresh.plan("plan", "-p", "--configfile", str(path)).text
    (words,) = list_commands(text, "plan.py")
    planned = json.loads(words[words.index("--datasets") + 1])
    assert [entry["name"] for entry in planned] == names[:100]
    assert len(shlex.join(words)) < 128 * 1024


def test_planning_leaves_nothing_behind(fresh, planned):
    names = {path.name for path in fresh.folder.iterdir()} - {".snakemake", ".home"}
    given = {"my.faa", "{sample}.faa"}
    assert names == given | {part.partition("/")[0] for part in PARTS}


def test_auto_asks_for_a_gpu_for_each_shard_and_for_nothing_else(planned):
    blocks = planned.text.split("\nrule ")[1:]
    asking = [block.partition(":")[0] for block in blocks if "gpu=1" in block]
    assert asking == ["embed_shard", "embed_shard"]


def test_cpu_asks_for_no_gpu(fresh):
    outcome = fresh.plan("--config", DATASETS, MODELS, "device=cpu")
    assert outcome.jobs["embed_shard"] == 2
    assert "gpu=" not in outcome.text.partition("Building DAG")[2]


def test_the_catalogs_snakefile_plans_the_same(fresh, planned):
    outcome = fresh.plan("--snakefile", "workflow/Snakefile", "--config", DATASETS, MODELS)
    assert outcome.jobs == {
        ("default" if rule == "all" else rule): count for rule, count in planned.jobs.items()
    }
    assert "Using workflow specific profile profiles/default" in outcome.text


def test_all_wrong_settings_are_listed(fresh):
    settings = ("device=gpu", "precision=fp16", "execution={token_budget: none}")
    outcome = fresh.plan("--config", DATASETS, MODELS, *settings, ok=False)
    lines = outcome.text.partition("\nThe configuration is not right:\n")[2].splitlines()
    starts = ["device is 'gpu'", "execution.token_budget is 'none'", "precision is not a key"]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=False)] == starts
    assert "Traceback" not in outcome.text
    assert "jsonschema" not in outcome.text


def test_the_workflow_passes_snakemakes_own_lint(fresh):
    assert "your workflow is in a good condition" in fresh.run("--lint").text
