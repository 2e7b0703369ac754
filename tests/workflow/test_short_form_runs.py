"""`--config fasta=... model=...` as a user types it, and what is typed instead."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
from driver import make_proteins, write_fasta

MODEL = "model=esm2_random"
NOT_PLANNED = "Job stats"


@pytest.fixture(scope="module")
def place(open_place, model, tmp_path_factory):
    """Two files of one name, and a configuration with a dataset of its own."""
    place = open_place(tmp_path_factory.mktemp("short"))
    write_fasta(place.folder / "my.faa", make_proteins(4))
    write_fasta(place.folder / "other/my.faa", make_proteins(3, seed=2))
    place.configure(
        datasets={"theirs": {"fasta": "missing.faa", "model": "esm2_random"}},
        models={"esm2_random": model},
        shards=1,
        device="cpu",
    )
    return place


@pytest.fixture(scope="module")
def outcome(place):
    return place.run("--config", "fasta=my.faa", MODEL)


def test_a_typed_file_runs_alone_under_its_name(place, outcome):
    jobs = {"index": 1, "split": 1, "embed_shard": 1, "merge": 1, "all": 1, "total": 5}
    assert outcome.jobs == jobs
    assert f"\nEmbeddings: {place.folder}/results/my/embeddings.h5\n" in outcome.text
    (said,) = re.findall(r"^Only the dataset my of fasta= is run.*$", outcome.text, re.MULTILINE)
    assert "theirs" in said


def test_the_same_command_has_nothing_to_do_in_a_moved_folder_either(place, outcome, tmp_path):
    assert place.plan("--config", "fasta=my.faa", MODEL).nothing_to_do
    moved = place.copy_to(tmp_path / "moved")
    assert moved.plan("--config", "fasta=my.faa", MODEL).nothing_to_do


def test_another_file_of_the_same_name_is_refused_unless_it_gets_another(place, outcome):
    refused = place.plan("--config", "fasta=other/my.faa", MODEL, ok=False)
    assert "\nresults/my holds the results of my.faa, which would be lost" in refused.text
    assert NOT_PLANNED not in refused.text
    assert place.plan("--config", "fasta=other/my.faa", MODEL, "name=mine").jobs["index"] == 1


def test_home_is_filled_in_but_is_no_part_of_the_job(place):
    home = type(place)(place.checkout, place.folder, {"HOME": str(place.folder / "other")})
    outcome = home.run(
        "-p", "results/h/index.parquet", "--config", "fasta=~/my.faa", MODEL, "name=h"
    )
    assert f"input: {place.folder}/other/my.faa" in outcome.text
    assert "--fasta '~/my.faa' " in outcome.text
    assert "results/h/index.parquet: 3 sequences of 1 file" in outcome.text


def _expanded_by_bash(text: str) -> list[str]:
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {text}"], capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "--config datasets={mine:{fasta:my.faa,model:esm2_random}}",
            "datasets: 'mine:fasta:my.faa' lacks a blank",
        ),
        ("--config fasta={my,b}.faa model=esm2_random", "fasta is given twice"),
        ("--config fasta=my.faa model=esm2_random --config shards=4", "--config is given twice"),
        ("fasta=my.faa model=esm2_random", "fasta=my.faa is taken for a file to make"),
        (
            "--config fasta=my.faa model=esm2_random device=auto --resources gpus=2",
            "--resources gpus=2 limits no job",
        ),
        ("--config fasta=- model=esm2_random", "fasta: `-` is standard input"),
    ],
)
def test_what_is_typed_wrong_is_explained(place, typed, message):
    words = _expanded_by_bash(typed)
    assert words != [] and shlex.split(typed)[0] == words[0]
    outcome = place.plan(*words, ok=False)
    assert f"\n{message}" in outcome.text
    assert NOT_PLANNED not in outcome.text
    assert "Traceback" not in outcome.text


def test_a_limit_of_other_gpus_in_a_profile_is_refused_too(place):
    profile = place.folder / "mine/config.yaml"
    profile.parent.mkdir()
    profile.write_text("resources: ['gpus=2']\n")
    arguments = ("--profile", str(profile.parent), "--config", "fasta=my.faa", MODEL)
    outcome = place.plan(*arguments, "device=auto", ok=False)
    assert "\n--resources gpus=2 limits no job" in outcome.text


def test_gaps_and_suspicious_texts_are_handed_to_the_index(place, outcome):
    changed = ("--config", "fasta=my.faa", MODEL, "gaps=remove", "suspicious=allow")
    planned = place.plan("-p", *changed)
    assert planned.jobs["index"] == 1
    assert "--gaps remove " in planned.text and "--suspicious allow " in planned.text
