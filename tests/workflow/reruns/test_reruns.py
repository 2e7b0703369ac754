"""Finished work is never done again, whatever makes Snakemake run the jobs again."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from driver import MODEL, Place, copy_checkout, make_proteins, read_ids, read_rows, write_fasta

DATASET = "big.names"
RESULT = f"results/{DATASET}/embeddings.h5"
# Over this size Snakemake goes by a file's time, below by its checksum.
CHECKSUM_BYTES = 1_000_000
ALL = {"index": 1, "split": 1, "embed_shard": 2, "merge": 1, "all": 1, "total": 6}
COUNT = 20


def configure(place: Place, model: str, **changes) -> None:
    config = {
        "datasets": {DATASET: {"fasta": "big.faa", "model": "esm2_random"}},
        "models": {"esm2_random": model},
    }
    place.configure(**config | changes)


@pytest.fixture(scope="module")
def base(checkout, model, tmp_path_factory):
    place = Place(checkout, tmp_path_factory.mktemp("base"))
    write_fasta(place.folder / "big.faa", make_proteins(COUNT), description="x" * 60_000)
    assert (place.folder / "big.faa").stat().st_size > CHECKSUM_BYTES
    configure(place, model)
    return place


@pytest.fixture(scope="module")
def outcome(base):
    """One GPU for two shards, on cores enough for both."""
    return base.run("--resources", "gpu=1", cores=4)


@pytest.fixture(scope="module")
def rows(base, outcome):
    return read_rows(base.folder / RESULT)


@pytest.fixture
def finished(base, outcome, tmp_path):
    """A finished run of the test's own."""
    return base.copy_to(tmp_path / "run")


def assert_nothing_is_computed(outcome, place, rows):
    """Both shards were written again, from the rows that were there."""
    assert [*outcome.embedded.values()] == [(0, COUNT // 2)] * 2
    assert read_rows(place.folder / RESULT) == rows


def test_shards_take_turns_on_one_gpu(base, outcome):
    assert outcome.jobs == ALL | {"prepare_model": 1, "total": 7}
    spans = sorted(span(base.folder / f"logs/{DATASET}/worker_{rank}.log") for rank in (0, 1))
    assert spans[0][1] < spans[1][0]


def span(log: Path) -> tuple[datetime, datetime]:
    times = re.findall(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ", log.read_text(), re.MULTILINE)
    return datetime.fromisoformat(times[0]), datetime.fromisoformat(times[-1])


def test_execution_settings_trigger_nothing(finished, model):
    execution = {"token_budget": 500, "checkpoint": {"sequences": 3, "seconds": 7}}
    configure(finished, model, device="cpu", execution=execution)
    assert finished.plan().nothing_to_do


def test_earlier_results_and_other_datasets_trigger_nothing(finished, model):
    own = {"fasta": "big.faa", "model": "esm2_random"}
    configure(finished, model, datasets={DATASET: own, "other": own}, reuse=["missing/*.h5"])
    assert finished.plan(RESULT).nothing_to_do
    configure(finished, model, datasets={DATASET: own | {"reuse": "gone.h5"}})
    assert finished.plan(RESULT).nothing_to_do


def test_other_storage_is_split_again(finished, model):
    configure(finished, model, embedding={"storage": "float16"})
    assert finished.plan().jobs == ALL


def test_what_index_wrote_for_split_alone_is_not_missed(finished, rows):
    assert not (finished.folder / f"results/{DATASET}/residues.bin").exists()
    assert finished.plan().nothing_to_do
    outcome = finished.run("--forcerun", "split")
    assert outcome.jobs == ALL
    assert_nothing_is_computed(outcome, finished, rows)


def test_other_shards_are_indexed_again(finished, model, rows):
    configure(finished, model, shards=1)
    outcome = finished.run()
    assert outcome.jobs == ALL | {"embed_shard": 1, "total": 5}
    assert read_rows(finished.folder / RESULT) == rows


def test_a_touched_fasta_computes_nothing(finished, rows):
    (finished.folder / "big.faa").touch()
    outcome = finished.run()
    assert outcome.jobs == ALL
    assert_nothing_is_computed(outcome, finished, rows)


def test_deleted_results_are_made_again_without_computing(finished, rows):
    """The merge has removed the shards, which are made again, from the store."""
    work = finished.folder / f"results/{DATASET}"
    assert not [*work.glob("shards/*"), *work.glob("checkpoints")]
    (finished.folder / RESULT).unlink()
    outcome = finished.run()
    assert outcome.jobs == {"embed_shard": 2, "merge": 1, "all": 1, "total": 4}
    assert_nothing_is_computed(outcome, finished, rows)
    log = (finished.folder / f"logs/{DATASET}/worker_0.log").read_text()
    assert "all rows are there: no device was needed" in log


def test_of_a_longer_fasta_only_what_is_new_is_computed(finished, rows):
    with (finished.folder / "big.faa").open("a") as file:
        file.write(">new\nMKVLATTTQWWWYYHHKMKVLATTTQWWWYYHHK\n")
    outcome = finished.run()
    assert (len(outcome.embedded), outcome.computed) == (2, 1)
    ids, values = read_rows(finished.folder / RESULT)
    assert ids == [*rows[0], "new"] == read_ids(finished.folder / "big.faa")
    assert values.startswith(rows[1])


def test_another_recipe_is_computed_and_the_first_is_kept(finished, model, rows):
    configure(finished, model, embedding={"long_sequences": "truncate", "max_length": 7})
    outcome = finished.run()
    # Split needs the residues, which index wrote for it alone.
    assert outcome.jobs == ALL
    assert outcome.computed == COUNT
    assert read_rows(finished.folder / RESULT)[1] != rows[1]
    configure(finished, model)
    assert_nothing_is_computed(finished.run(), finished, rows)


def test_a_moved_checkout_computes_nothing(base, rows, tmp_path):
    """Program, model and data lie elsewhere, as new files; only the contents are the same."""
    old, new = tmp_path / "old", tmp_path / "new"
    copy_checkout(old)
    base.copy_to(old / "run")
    shutil.copytree(old, new, copy_function=shutil.copyfile)
    shutil.rmtree(old)
    moved = Place(new, new / "run")
    configure(moved, str(new / MODEL))
    (moved.folder / "big.faa").touch()
    outcome = moved.run()
    assert outcome.jobs == ALL | {"prepare_model": 1, "total": 7}
    prepared = json.loads((moved.folder / "resources/models/esm2_random.json").read_text())
    assert prepared["weights"] == str(new / MODEL / "model.safetensors")
    assert_nothing_is_computed(outcome, moved, rows)
