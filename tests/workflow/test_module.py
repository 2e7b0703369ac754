"""The workflow as a module of another one, which has a configuration and rules of its own."""

from __future__ import annotations

import json
import os
import re
import shutil

import h5py
import pytest
from driver import Place, make_proteins, read_rows, write_fasta

from seqembed.results.seal import seal

OUTER = """
configfile: "config/config.yaml"

onsuccess:
    print("the outer workflow is done")

module seqembed:
    snakefile: {snakefile!r}
    config: config["seqembed"]

module placed:
    snakefile: {snakefile!r}
    prefix: "sub"
    config: config["seqembed"]

use rule * from seqembed as seqembed_*
use rule * from placed as placed_*

rule index:
    default_target: True
    input: "results/mine/embeddings.h5", "sub/results/mine/embeddings.h5"
    output: "counts/{{}}.txt".format(config["own"])
    shell: "wc -c {{input:q}} > {{output:q}}"
"""
RULES = ("index", "prepare_model", "split", "embed_shard", "merge")


@pytest.fixture(scope="module")
def outer(checkout, model, tmp_path_factory):
    """The importing workflow is run where it lies, and only names the checkout."""
    folder = tmp_path_factory.mktemp("outer")
    write_fasta(folder / "data/my.faa", make_proteins(5))
    (folder / "my_model").symlink_to(model)
    (folder / "Snakefile").write_text(OUTER.format(snakefile=f"{checkout}/Snakefile"))
    place = Place(folder, folder)
    place.configure(
        own="bytes",
        seqembed={
            "datasets": {
                name: {"fasta": "data/*.faa", "model": "my_model"} for name in ("mine", "other")
            },
            "models": {"my_model": "my_model"},
            "shards": 1,
            "device": "cpu",
        },
    )
    return place


@pytest.fixture(scope="module")
def outcome(outer):
    return outer.run()


def test_a_module_brings_its_rules_under_other_names(outcome):
    modules = ("seqembed", "placed")
    brought = {f"{module}_{rule}": 1 for module in modules for rule in RULES}
    assert outcome.jobs == brought | {"index": 1, "total": 11}


def test_a_module_works_in_the_importers_folder_and_under_a_prefix(outer, outcome):
    lines = (outer.folder / "counts/bytes.txt").read_text().splitlines()
    for base, line in zip((outer.folder, outer.folder / "sub"), lines, strict=False):
        results = base / "results/mine/embeddings.h5"
        assert read_rows(results)[0] == [f"p{n}" for n in range(5)]
        assert line.split()[0] == str(results.stat().st_size)
        assert (base / "logs/mine/worker_0.log").exists()


def test_the_stores_of_other_datasets_are_those_under_the_same_prefix(outer, outcome):
    text = outer.plan("-p", "--forceall").text
    for prefix in ("", "sub/"):
        store, place = f"{prefix}results/other/store", f"{prefix}results/mine"
        assert re.search(rf"--stores {store} .*\n.*\n +--output-dir {place}/index ", text)
        assert re.search(rf'--output {place}/shards/.*\n.*\n.*"stores": \["{store}"\]', text)


def test_a_module_is_planned_under_its_own_prefix(outer, outcome):
    planned = outer.run("seqembed_plan", "placed_plan")
    assert (planned.jobs["seqembed_plan"], planned.jobs["placed_plan"]) == (1, 1)
    for base in (outer.folder, outer.folder / "sub"):
        plans = [base / f"results/{name}/plan.json" for name in ("mine", "other")]
        finished = [json.loads(path.read_text())["finished"] for path in plans]
        assert finished == [True, False]


def test_an_export_under_a_prefix_follows_the_result_that_is_there(outer, outcome, tmp_path):
    place, export = outer.copy_to(tmp_path / "outer"), "sub/results/mine/export/embeddings.parquet"
    place.run(export)
    assert place.plan(export).nothing_to_do
    result = place.folder / "sub/results/mine/embeddings.h5"
    with h5py.File(shutil.copy(result, tmp_path / "other.h5"), "r+", locking=False) as file:
        file["embeddings"][:] += 1
    seal(tmp_path / "other.h5")
    os.utime(tmp_path / "other.h5", (0, 0))
    shutil.move(tmp_path / "other.h5", result)
    assert place.plan(export).jobs == {"placed_export": 1, "total": 1}


def test_only_the_importers_closing_message_is_shown(outcome):
    assert "\nthe outer workflow is done\n" in outcome.text
    assert "Embeddings: " not in outcome.text


def test_a_wrong_key_of_its_configuration_is_refused(outer):
    path = outer.folder / "wrong.json"
    path.write_text(json.dumps({"seqembed": {"datasets": {}, "shard": 3}}))
    outcome = outer.plan("--configfile", str(path), ok=False)
    assert "\nshard is not a key of the configuration. Did you mean shards?" in outcome.text
