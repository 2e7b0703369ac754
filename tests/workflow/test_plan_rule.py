"""`snakemake plan` as a user sees it: what it prints and writes, and that it embeds nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from driver import MODEL, Outcome, Place, make_proteins, write_fasta

NAMES = ("first", "second")
COUNT = 40
# ESM-2 15B, of whose small files no hash is known, and which is never downloaded here.
KNOWN = "esm2_t48_15B_UR50D"


def configure(place: Place, model: str, *names: str, **changes: Any) -> None:
    datasets = {name: {"fasta": f"{name}.faa", "model": "esm2_random"} for name in names}
    settings = {"datasets": datasets, "models": {"esm2_random": model}, "device": "cpu"}
    place.configure(**settings | {"shards": 2} | changes)


def read_plan(place: Place, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((place.folder / f"results/{name}/plan.json").read_text())
    return content


def page(outcome: Outcome) -> str:
    """What the plan printed."""
    found = re.search(r"^\w+: esm2_\w+, (mean|max), .*?(?=\n\[|\Z)", outcome.text, re.M | re.S)
    assert found, outcome.text
    return found[0]


@pytest.fixture(scope="module")
def place(open_place, model, tmp_path_factory):
    place = open_place(tmp_path_factory.mktemp("plan") / "run")
    for number, name in enumerate(NAMES):
        write_fasta(place.folder / f"{name}.faa", make_proteins(COUNT, seed=number))
    configure(place, model, *NAMES)
    return place


@pytest.fixture(scope="module")
def planned(place) -> Outcome:
    return place.run("plan")


@pytest.fixture(scope="module")
def finished(place, planned, model, tmp_path_factory):
    """The first dataset's result is made after its plan."""
    copy = place.copy_to(tmp_path_factory.mktemp("finished") / "run")
    configure(copy, model, "first")
    assert copy.run().computed == COUNT
    return copy


def test_a_plan_indexes_and_embeds_nothing(place, planned):
    assert planned.jobs == {"index": 2, "split": 2, "plan": 1, "total": 5}
    results = place.folder / "results/first"
    assert {path.name for path in results.iterdir()} == {"index.parquet", "index", "plan.json"}


def test_what_is_printed_is_in_the_file(place, planned):
    text, content = page(planned), read_plan(place, "first")
    assert text.startswith("first: esm2_random, mean, fp32 on the CPU\n")
    assert f"to compute       {COUNT} sequences in 2 shards\n" in text
    assert "time             not known: no run" in text
    assert f"{content['residues']:,}, as {content['tokens']:,} tokens\n" in text
    assert (content["sequences"], content["to_compute"]) == (COUNT, COUNT)
    assert content["tokens"] == content["residues"] + 2 * COUNT
    assert [shard["to_compute"] for shard in content["shards"]] == [20, 20]
    assert "\nsecond: esm2_random" in text
    assert "all 2 datasets: " in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_plan_is_printed_each_time(place, planned):
    again = place.run("plan")
    assert again.jobs == {"plan": 1, "total": 1}
    assert page(again).splitlines()[:6] == page(planned).splitlines()[:6]


def test_only_the_plan_is_on_stdout_and_in_ascii_where_it_must_be(place, planned):
    shown = Place(place.checkout, place.folder, {"PYTHONIOENCODING": "ascii"})
    with shown.start("plan", "--quiet", "all") as driver:
        text = driver.communicate()[0]
    assert driver.returncode == 0
    assert not set(text) & set("▁▂▃▅▇")
    assert "#" in text


def test_disk_is_what_a_run_then_takes(finished):
    content = read_plan(finished, "first")["disk_bytes"]
    result = finished.folder / "results/first/embeddings.h5"
    assert abs(content["result"] - result.stat().st_size) < 20_000
    assert content["peak"] > content["end"] > content["result"]


def test_after_a_finished_run_there_is_nothing_to_compute(finished, model):
    outcome = finished.run("plan")
    assert outcome.jobs == {"plan": 1, "total": 1}
    assert "already there    all: embeddings.h5 is finished" in page(outcome)
    content = read_plan(finished, "first")
    assert (content["finished"], content["to_compute"], content["seconds"]) == (True, 0, 0.0)
    assert finished.plan().nothing_to_do


def test_rows_of_an_earlier_result_are_there(finished, model, tmp_path):
    copy = finished.copy_to(tmp_path / "run")
    proteins = make_proteins(COUNT, seed=0) | {"new": "MKVLAAGI"}
    write_fasta(copy.folder / "first.faa", proteins)
    outcome = copy.run("plan")
    assert outcome.jobs == {"index": 1, "split": 1, "plan": 1, "total": 3}
    text = page(outcome)
    assert f"already there    {COUNT} in earlier results or checkpoints\n" in text
    assert "to compute       1 sequence in 2 shards\n" in text
    configure(copy, model, "first", embedding={"pooling": "max"})
    assert f"to compute       {COUNT + 1} sequences" in page(copy.run("plan"))


def test_rows_that_a_killed_run_saved_are_there(place, planned, model, tmp_path):
    copy = place.copy_to(tmp_path / "run")
    checkpoint = {"sequences": 1, "seconds": 1000}
    write_fasta(copy.folder / "first.faa", make_proteins(30, lengths=(590, 610)))
    execution = {"token_budget": 700, "checkpoint": checkpoint}
    configure(copy, model, "first", shards=1, execution=execution)
    with copy.start(cores=1) as driver:
        blocks = "results/first/checkpoints/*/shard_0/batch_*.safetensors"
        driver.wait_until(lambda: len(list(copy.folder.glob(blocks))) >= 3, "three blocks")
    copy.run("plan", "--unlock")
    content, count = copy.run("plan"), len(list(copy.folder.glob(blocks)))
    assert f"already there    {count} in this dataset's checkpoints\n" in page(content)
    (shard,) = read_plan(copy, "first")["shards"]
    assert (shard["saved"], shard["to_compute"]) == (count, 30 - count)
    assert copy.run(cores=1).computed == 30 - count


def test_a_model_that_would_be_downloaded_is_planned_without_it(checkout, prepared_model, tmp_path):
    place = Place(checkout, tmp_path, {"HF_ENDPOINT": "http://127.0.0.1:9"})
    write_fasta(tmp_path / "mine.faa", make_proteins(5))
    place.configure(datasets={"mine": {"fasta": "mine.faa", "model": KNOWN}}, device="cpu")
    small = tmp_path / f"resources/models/{KNOWN}/original"
    small.mkdir(parents=True)
    for name in ("config.json", "vocab.txt"):
        shutil.copy(checkout / MODEL / name, small / name)
    outcome = place.run("plan")
    assert outcome.jobs == {"plan": 1, "total": 1}
    text = page(outcome)
    assert "model            not here yet: a run downloads it first" in text
    assert "already there    not known before the model is here\n" in text
    assert "to compute       5 sequences" in text
    results = tmp_path / "results/mine"
    assert [path.name for path in results.iterdir()] == ["plan.json"]
    assert read_plan(place, "mine")["recipe_fingerprint"] is None
    # As soon as the model is prepared, the indexes are made that a run uses, too.
    shutil.copy(prepared_model, tmp_path / f"resources/models/{KNOWN}.json")
    assert place.plan("plan").jobs == {"index": 1, "split": 1, "plan": 1, "total": 3}


def test_a_bad_fasta_file_is_an_error_of_the_index(place, planned, model, tmp_path):
    copy = place.copy_to(tmp_path / "run")
    configure(copy, model, "first")
    (copy.folder / "first.faa").write_text(">p\nMK1V\n")
    outcome = copy.run("plan", ok=False)
    assert any("first.faa" in line for line in outcome.said_by("index"))
    assert "Traceback" not in outcome.text


def test_without_a_dataset_a_plan_says_what_to_write(checkout, tmp_path):
    outcome = Place(checkout, tmp_path).run("plan", ok=False)
    assert "`datasets` is empty, so there is nothing to embed." in outcome.text


def test_a_full_disk_is_said(place, planned, tmp_path):
    copy = place.copy_to(tmp_path / "run")
    script = copy.checkout / "workflow/scripts/plan.py"
    hook = Path(tmp_path / "hook")
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import shutil\n"
        "old = shutil.disk_usage\n"
        "shutil.disk_usage = lambda path: old(path)._replace(free=1000)\n"
    )
    assert script.exists()
    full = Place(copy.checkout, copy.folder, {"PYTHONPATH": str(hook)})
    text = page(full.run("plan"))
    assert "WARNING: the disk of results/ will not do: " in text
    assert "are missing" in text
    assert "1.00 kB" in text
