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


def refuse(place: Place, *arguments: str) -> list[str]:
    """The lines of a plan that is refused, in Snakemake's words and with no traceback."""
    outcome = place.plan(*arguments, ok=False)
    assert "Traceback (most recent call last)" not in outcome.text
    assert "Job stats" not in outcome.text
    return outcome.text.splitlines()


def test_a_dataset_that_stands_twice(place):
    config = f"{MODELS}datasets:\n{DATASET}{DATASET}"
    (place.folder / "config/config.yaml").write_text(config)
    line = "config/config.yaml, line 4: the key 'mine' already stands in line 3; keep one."
    assert line in refuse(place)
    given = place.folder / "mine.yaml"
    (place.folder / "config/config.yaml").rename(given)
    line = f"{given}, line 4: the key 'mine' already stands in line 3; keep one."
    assert line in refuse(place, "--configfile", str(given))


def test_an_empty_configuration(place):
    (place.folder / "config/config.yaml").write_text("#datasets:\n")
    line = "config/config.yaml: holds no keys; write `datasets:` and what belongs below it, or "
    assert f"{line}remove the file." in refuse(place)


def test_a_pipe_among_fasta_files(place):
    (place.folder / "config/config.yaml").write_text(f"{MODELS}datasets:\n{DATASET}")
    os.mkfifo(place.folder / "b.faa")
    line = "    Dataset mine: b.faa: is a pipe, and sequences are read twice; write them to a file "
    assert f"{line}first" in refuse(place)
