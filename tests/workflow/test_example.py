"""The bundled example, from a fresh checkout to its embeddings."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from driver import EXAMPLE, Place, copy_checkout, read_ids

ARGUMENTS = ("--directory", EXAMPLE, "--configfile", f"{EXAMPLE}/config.yaml")
TRUNCATED = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    checkout = copy_checkout(tmp_path_factory.mktemp("example"))
    return Place(checkout, checkout)


@pytest.fixture(scope="module")
def outcome(place):
    return place.run(*ARGUMENTS)


@pytest.fixture
def embeddings(place, outcome):
    with h5py.File(place.folder / EXAMPLE / "results/example/embeddings.h5", locking=False) as file:
        yield file


def test_there_is_a_row_for_each_id_in_input_order(place, embeddings):
    ids = read_ids(place.folder / EXAMPLE / "proteins.fasta")
    assert len(ids) == 60
    assert list(embeddings["sequence_ids"].asstr()[:]) == ids
    assert embeddings["embeddings"].shape == (60, 64)
    assert np.isfinite(embeddings["embeddings"][:]).all()


def test_equal_sequences_are_embedded_once(outcome, embeddings):
    digests = embeddings["digests"][:]
    assert len(np.unique(digests, axis=0)) == outcome.computed == 59
    assert len(np.unique(embeddings["embeddings"][:], axis=0)) == 59


def test_long_sequences_are_marked(outcome, embeddings):
    truncated = embeddings["flags"][:] & TRUNCATED > 0
    assert np.array_equal(truncated, embeddings["lengths"][:] > 1022)
    assert truncated.sum() == 10
    assert "60 sequences (59 distinct), 64 values each, 10 truncated" in outcome.text


def test_a_second_run_has_nothing_to_do(place, outcome):
    assert place.run(*ARGUMENTS).nothing_to_do


def test_it_all_stays_in_its_folder(place, outcome):
    made = {path.name for path in place.folder.iterdir()}
    assert not made & {"results", "logs"}
    assert {path.name for path in (place.folder / "resources/models").iterdir()} == {"esm2_random"}
