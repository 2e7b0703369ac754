"""`snakemake plan` as a user sees it: what it prints and writes, and that it embeds nothing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from typing import Any

import pytest
from driver import MODEL, Outcome, Place, make_proteins, write_fasta

NAMES = ("first", "second")
COUNT = 40
# ESM-2 15B, of whose small files no hash is known, and which is never downloaded here.
KNOWN = "esm2_t48_15B_UR50D"


def configure(place: Place, model: str, *names: str, **others: dict[str, Any]) -> None:
    """Datasets of these names, of {name}.faa and the prepared model; others: settings of more."""
    usual = {"model": "esm2_random"}
    settings = dict.fromkeys(names, usual) | {name: usual | own for name, own in others.items()}
    place.configure(
        datasets={name: {"fasta": f"{name}.faa"} | own for name, own in settings.items()},
        models={"esm2_random": model},
        device="cpu",
        shards=2,
    )


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
    """Two datasets of the prepared model, and one of a model that would be downloaded."""
    place = open_place(tmp_path_factory.mktemp("plan") / "run")
    for number, name in enumerate(NAMES):
        write_fasta(place.folder / f"{name}.faa", make_proteins(COUNT, seed=number))
    write_fasta(place.folder / "mine.faa", make_proteins(5))
    small = place.folder / f"resources/models/{KNOWN}/original"
    small.mkdir(parents=True)
    for name in ("config.json", "vocab.txt"):
        shutil.copy(place.checkout / MODEL / name, small / name)
    configure(place, model, *NAMES, mine={"model": KNOWN})
    return replace(place, environment={"HF_ENDPOINT": "http://127.0.0.1:9"})


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
    assert "all 3 datasets: " in text
    assert max(map(len, text.splitlines())) <= 80


def test_disk_is_what_a_run_then_takes(finished):
    content = read_plan(finished, "first")["disk_bytes"]
    result = finished.folder / "results/first/embeddings.h5"
    assert abs(content["result"] - result.stat().st_size) < 20_000
    assert content["peak"] > content["end"] > content["result"]


def test_a_plan_is_printed_each_time_and_alone_on_stdout(finished, tmp_path):
    """Also after a finished run, and in ASCII where nothing else can be written."""
    place = replace(finished, environment={"PYTHONIOENCODING": "ascii"})
    with (tmp_path / "stderr").open("w+") as stderr:
        with place.start("plan", stderr=stderr) as driver:
            text = driver.communicate()[0]
        others = Outcome(driver.returncode, (tmp_path / "stderr").read_text())
    assert (others.code, others.jobs) == (0, {"plan": 1, "total": 1})
    assert f"\nEmbeddings: {place.folder}/results/first/embeddings.h5\n" in others.text
    lines = text.splitlines()
    assert lines[0] == "first: esm2_random, mean, fp32 on the CPU"
    assert "  already there    all: embeddings.h5 is finished" in lines
    assert all(line.startswith("  ") for line in lines[1:] if line)
    assert not set(text) & set("▁▂▃▅▇")
    assert "#" in text
    content = read_plan(finished, "first")
    assert (content["finished"], content["to_compute"], content["seconds"]) == (True, 0, 0.0)
    assert finished.plan().nothing_to_do


@pytest.fixture(scope="module")
def changed(finished, model, tmp_path_factory) -> Outcome:
    """The plan after a sequence was added, also of another pooling, with 1 kB of the disk free."""
    folder = tmp_path_factory.mktemp("changed")
    copy = finished.copy_to(folder / "run")
    proteins = make_proteins(COUNT, seed=0) | {"new": "MKVLAAGI"}
    write_fasta(copy.folder / "first.faa", proteins)
    write_fasta(copy.folder / "other.faa", proteins)
    configure(copy, model, "first", other={"embedding": {"pooling": "max"}})
    (folder / "hook").mkdir()
    (folder / "hook/sitecustomize.py").write_text(
        "import shutil\n"
        "old = shutil.disk_usage\n"
        "shutil.disk_usage = lambda path: old(path)._replace(free=1000)\n"
    )
    return replace(copy, environment={"PYTHONPATH": str(folder / "hook")}).run("plan")


def test_rows_of_an_earlier_result_are_there(changed):
    assert changed.jobs == {"index": 2, "split": 2, "plan": 1, "total": 5}
    first, other = page(changed).split("\nother: ")
    assert f"already there    {COUNT} in earlier results or checkpoints\n" in first
    assert "to compute       1 sequence in 2 shards\n" in first
    assert "already there    none\n" in other
    assert f"to compute       {COUNT + 1} sequences" in other


def test_a_full_disk_is_said(changed):
    text = page(changed)
    assert "WARNING: the disk of results/ will not do: " in text
    assert "are missing" in text
    assert "1.00 kB" in text


def test_a_model_that_would_be_downloaded_is_planned_without_it(
    place, planned, prepared_model, tmp_path
):
    text = page(planned).partition(f"\nmine: {KNOWN}")[2]
    assert "model            not here yet: a run downloads it first" in text
    assert "already there    not known before the model is here\n" in text
    assert "to compute       5 sequences" in text
    assert [path.name for path in (place.folder / "results/mine").iterdir()] == ["plan.json"]
    assert read_plan(place, "mine")["recipe_fingerprint"] is None
    # As soon as the model is prepared, the indexes are made that a run uses, too.
    copy = place.copy_to(tmp_path / "run")
    shutil.copy(prepared_model, copy.folder / f"resources/models/{KNOWN}.json")
    assert copy.plan("plan").jobs == {"index": 1, "split": 1, "plan": 1, "total": 3}


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
