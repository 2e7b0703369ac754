"""What is wrong with a configuration or its sequences is said before a GPU is asked for."""

from __future__ import annotations

import os

import pytest
from driver import MODEL, Place, make_proteins, write_fasta

MODELS = f"models: {{esm2_random: {MODEL}}}\n"
DATASET = "  mine: {fasta: a.faa, model: esm2_random}\n"
ONE = f"{MODELS}datasets:\n{DATASET}"
REFUSED = {
    "#datasets:\n": "config/config.yaml: has no keys",
    f"{ONE}{DATASET}": "config/config.yaml, line 4: the key 'mine' is already in line 3",
    ONE.replace("a.faa", "no/*.faa"): "    Dataset mine: no/*.faa: matches no file",
    ONE.replace("a.faa", "a_pipe"): "    Dataset mine: a_pipe: is a pipe",
    ONE.replace("a.faa", "'{sample}.faa'"): (
        "    {sample}.faa: Snakemake would take the braces in this path for a wildcard"
    ),
    ONE.replace(MODEL, "no/model"): "    models: esm2_random: no/model does not exist",
}


@pytest.fixture
def place(checkout, tmp_path) -> Place:
    """A folder with FASTA files and a pipe, and no configuration."""
    for name in ("a.faa", "{sample}.faa"):
        write_fasta(tmp_path / name, make_proteins(4))
    os.mkfifo(tmp_path / "a_pipe")
    (tmp_path / "config").mkdir()
    return Place(checkout, tmp_path)


def refuse(place: Place, config: str, message: str, *arguments: str) -> None:
    """Check that a plan is refused in Snakemake's words, without a traceback."""
    (place.folder / "config/config.yaml").write_text(config)
    outcome = place.plan(*arguments, ok=False)
    assert f"\n{message}" in outcome.text
    assert outcome.text.count("Exception") <= 1
    assert "Traceback (most recent call last)" not in outcome.text
    assert "Job stats" not in outcome.text


@pytest.mark.parametrize("config", REFUSED, ids=list(REFUSED.values()))
def test_a_plan_says_what_is_wrong_with_a_configuration(config, place):
    refuse(place, config, REFUSED[config])


def test_a_dataset_that_is_not_configured_is_named(place):
    message = "    No dataset is named 'yours'; known: mine"
    refuse(place, ONE, message, "results/yours/embeddings.h5")


def test_a_given_configuration_is_named(place):
    given = place.folder / "mine.yaml"
    given.write_text(f"{ONE}{DATASET}")
    message = f"{given}, line 4: the key 'mine' is already in line 3"
    refuse(place, "datasets: {}", message, "--configfile", str(given))


def test_a_configuration_that_would_run_as_a_program_is_refused_unread(place):
    """Snakemake takes such a file for a template, and what follows a `?` for Python."""
    pwned = place.folder / "PWNED"
    program = f'__use_yte__: true\ndatasets: ?open("{pwned}", "w").close()\n'
    refuse(place, program, "config/config.yaml: the key __use_yte__ lets Snakemake run")
    assert not pwned.exists()


@pytest.fixture(scope="module")
def outcome(open_place, model, tmp_path_factory):
    """Two datasets, each with a fault of its own, in one run that keeps going."""
    place = open_place(tmp_path_factory.mktemp("refusals"))
    proteins = make_proteins(6)
    write_fasta(place.folder / "a.faa", proteins)
    write_fasta(place.folder / "b.faa", {"new": "MKV", "p3": "MKVLAT"})
    long = {f"long{size}": "MKVLATW" * size for size in (146, 147, 200)}
    write_fasta(place.folder / "long.faa", proteins | long)
    place.configure(
        datasets={
            "twice": {"fasta": ["a.faa", "b.faa"], "model": "esm2_random"},
            "long": {
                "fasta": "long.faa",
                "model": "esm2_random",
                "embedding": {"long_sequences": "error"},
            },
        },
        models={"esm2_random": model},
        device="cpu",
    )
    return place.run(ok=False)


def test_an_id_that_is_used_twice_is_named_with_both_places(outcome):
    (line,) = [line for line in outcome.said_by("index") if "already used" in line]
    for part in ("b.faa", "line 3", "'p3'", "a.faa, line 7", "`ids: file:header`"):
        assert part in line


def test_sequences_that_are_too_long_are_counted_and_the_key_is_named(outcome):
    (line,) = outcome.said_by("split")
    for part in ("2 of 9 sequences", "1,022 residues", "long147", "long_sequences: window"):
        assert part in line


def test_the_run_ends_with_what_went_wrong(outcome):
    end = outcome.text.partition("Not finished. These errors are in logs/:\n")[2].splitlines()
    assert end[0].startswith("  logs/long/split.log: 2 of 9 sequences are longer")
    assert end[1].startswith("  logs/twice/index.log: b.faa, line 3")
    assert end[2].startswith("Finished work is kept")


def test_no_line_comes_twice_if_snakemake_shows_the_logs(place):
    (place.folder / "a.faa").write_text(">a\nMKV1\n")
    (place.folder / "config/config.yaml").write_text(
        ONE.replace(MODEL, str(place.checkout / MODEL))
    )
    outcome = place.run("--show-failed-logs", ok=False)
    error = "a.faa, line 2, record 'a': 'MKV1' cannot be residues"
    (line,) = [line for line in outcome.text.splitlines() if error in line]
    assert " ERROR " in line and f"{line}\n{'=' * 80}\n" in outcome.text
    assert outcome.said_by("prepare_model") and not outcome.said_by("index")
    assert "Not finished. The errors end the logs that are shown above." in outcome.text
    (log,) = place.folder.glob("logs/mine/index.log")
    shown = outcome.text.splitlines()
    assert all(shown.count(line) == 1 for line in log.read_text().splitlines())


def test_no_shard_was_embedded(outcome):
    assert outcome.jobs["embed_shard"] == 4
    assert "rule embed_shard" not in outcome.text
    assert "Error in rule index" in outcome.text
    assert "Error in rule split" in outcome.text
