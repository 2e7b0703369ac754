"""What Snakemake itself says of files of the configuration, and of FASTA that is none."""

from __future__ import annotations

import os

import pytest
from driver import MODEL, Place, make_proteins, write_fasta

DATASET = "  mine: {fasta: '*.faa', model: esm2_random}\n"
MODELS = f"models: {{esm2_random: {MODEL}}}\n"


@pytest.fixture
def place(checkout, tmp_path) -> Place:
    """A folder with one FASTA file and no configuration."""
    write_fasta(tmp_path / "a.faa", make_proteins(4))
    (tmp_path / "config").mkdir()
    return Place(checkout, tmp_path)


def refuse(place: Place, config: str, *arguments: str) -> str:
    """What a plan says that is refused, in Snakemake's words and without a traceback."""
    (place.folder / "config/config.yaml").write_text(config)
    outcome = place.plan(*arguments, ok=False)
    assert "Traceback (most recent call last)" not in outcome.text
    assert "Job stats" not in outcome.text
    return outcome.text


def test_a_dataset_that_stands_twice(place):
    config = f"{MODELS}datasets:\n{DATASET}{DATASET}"
    twice = ", line 4: the key 'mine' is already in line 3"
    assert f"\nconfig/config.yaml{twice}" in refuse(place, config)
    given = place.folder / "mine.yaml"
    given.write_text(config)
    assert f"\n{given}{twice}" in refuse(place, "datasets: {}", "--configfile", str(given))


def test_an_empty_configuration(place):
    assert "\nconfig/config.yaml: has no keys" in refuse(place, "#datasets:\n")


def test_a_pipe_among_fasta_files(place):
    os.mkfifo(place.folder / "b.faa")
    said = refuse(place, f"{MODELS}datasets:\n{DATASET}")
    assert "\n    Dataset mine: b.faa: is a pipe" in said


def test_a_configuration_that_would_run_as_a_program_is_refused_unread(place):
    """Snakemake takes such a file for a template, and what follows a `?` for Python."""
    pwned = place.folder / "PWNED"
    program = f'__use_yte__: true\ndatasets: ?open("{pwned}", "w").close()\n'
    assert "\nconfig/config.yaml: the key __use_yte__ lets Snakemake run" in refuse(place, program)
    assert not pwned.exists()
