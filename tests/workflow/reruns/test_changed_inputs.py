"""A FASTA file that is another than was indexed: runs end by saying so, and verify compares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from driver import Place, make_proteins, write_fasta

INDEX = Path("results/work/index.parquet")


@pytest.fixture(scope="module")
def base(checkout, model, tmp_path_factory) -> Place:
    place = Place(checkout, tmp_path_factory.mktemp("inputs"))
    datasets = {"work": {"fasta": "work.faa", "model": "own", "shards": 1}}
    place.configure(datasets=datasets, models={"own": model}, device="cpu")
    # Over 1 MB Snakemake goes by the file's time, which an older one does not raise.
    write_fasta(place.folder / "work.faa", make_proteins(4), description="x" * 300_000)
    outcome = place.run()
    assert outcome.computed == 4
    assert "Dataset work:" not in outcome.text
    return place


@pytest.fixture
def place(base, tmp_path) -> Place:
    return base.copy_to(tmp_path / "run")


def put_back(path: Path, content: bytes) -> None:
    """As if from a backup: with a time before that of the file in its place."""
    time = path.stat().st_mtime_ns - 10**12
    path.write_bytes(content)
    os.utime(path, ns=(time, time))


def test_an_older_file_of_the_same_size_is_said_to_be_maybe_another(place):
    path = place.folder / "work.faa"
    content = path.read_bytes()
    put_back(path, content)
    outcome = place.run()
    assert outcome.nothing_to_do
    last = outcome.text.rstrip().splitlines()[-1]
    assert last.startswith("Dataset work: work.faa has another modification time")
    assert "all is well" in place.run("verify").text
    put_back(path, content[:-2] + (b"A" if content[-2:-1] != b"A" else b"G") + b"\n")
    refused = place.run("verify", ok=False).text
    assert f"is not as it was when {INDEX} was made; put the old file back" in refused
    again = place.run("--forcerun", str(INDEX))
    assert again.computed == 1
    assert "Dataset work:" not in again.text


def test_an_older_file_of_another_size_is_indexed_anew(place):
    path = place.folder / "work.faa"
    put_back(path, path.read_bytes() + b">more\nMKVLLAG\n")
    outcome = place.run()
    assert (outcome.computed, outcome.jobs["index"]) == (1, 1)
    assert "Dataset work:" not in outcome.text
