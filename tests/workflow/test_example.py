"""The bundled example, from a fresh checkout to its embeddings: proteins and DNA, offline."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from driver import DEMOS, EXAMPLE, Place, copy_checkout, read_ids

ARGUMENTS = ("--directory", EXAMPLE, "--configfile", f"{EXAMPLE}/config.yaml")
WINDOWED = 1
# Of each dataset: its ids, its distinct sequences, the values of a row.
COUNTS = {"proteins": (60, 59, 128), "contigs": (13, 12, 96)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    checkout = copy_checkout(tmp_path_factory.mktemp("example"))
    return Place(checkout, checkout)


@pytest.fixture(scope="module")
def outcome(place):
    return place.run(*ARGUMENTS)


@pytest.fixture
def results(place, outcome):
    folder = place.folder / EXAMPLE / "results"
    files = {name: h5py.File(folder / name / "embeddings.h5", locking=False) for name in COUNTS}
    yield files
    for file in files.values():
        file.close()


@pytest.mark.parametrize("name", COUNTS)
def test_there_is_a_row_for_each_id_in_input_order(name, place, results):
    count, _, width = COUNTS[name]
    ids = read_ids(place.folder / EXAMPLE / f"{name}.fasta")
    assert len(ids) == count
    assert list(results[name]["sequence_ids"].asstr()[:]) == ids
    assert results[name]["embeddings"].shape == (count, width)
    assert np.isfinite(results[name]["embeddings"][:]).all()
    quarantine = place.folder / EXAMPLE / "results" / name / "quarantine.tsv"
    assert quarantine.read_text() == "sequence_id\treason\n"


def test_equal_sequences_are_embedded_once(outcome, results):
    assert outcome.computed == sum(distinct for _, distinct, _ in COUNTS.values())
    for name, (_, distinct, _) in COUNTS.items():
        assert len(np.unique(results[name]["digests"][:], axis=0)) == distinct
        assert len(np.unique(results[name]["embeddings"][:], axis=0)) == distinct


def test_long_proteins_are_marked_and_counted(outcome, results):
    windowed = results["proteins"]["flags"][:] & WINDOWED > 0
    assert np.array_equal(windowed, results["proteins"]["lengths"][:] > 1022)
    assert windowed.sum() == 10
    said = "60 sequences (59 distinct), 128 values each, 10 windowed, 0 truncated"
    assert said in outcome.text
    assert not results["contigs"]["flags"][:].any()


def test_a_second_run_has_nothing_to_do(place, outcome):
    assert place.run(*ARGUMENTS).nothing_to_do


def test_a_run_writes_in_the_examples_folder_alone(place, outcome):
    made = {path.name for path in place.folder.iterdir()}
    assert not made & {"results", "logs"}
    models = {path.name for path in (place.folder / "resources/models").iterdir()}
    assert models == {demo.rpartition("/")[2] for demo in DEMOS}
