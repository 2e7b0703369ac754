"""Finished results are looked at once more: when asked, and where nothing may be left out."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from driver import Place, make_proteins, write_fasta

from seqembed.results.seal import seal

NAMES = ("first", "second")
RESULT = "results/{}/embeddings.h5"
CHECKED = "results/{}/quarantine.checked"


def configure(place: Place, model: str, **execution: str) -> None:
    datasets = {name: {"fasta": f"{name}.faa", "model": "esm2_random"} for name in NAMES}
    models = {"esm2_random": model}
    place.configure(datasets=datasets, models=models, shards=1, device="cpu", execution=execution)


@pytest.fixture(scope="module")
def place(open_place, model, tmp_path_factory):
    place = open_place(tmp_path_factory.mktemp("verify"))
    for number, name in enumerate(NAMES):
        write_fasta(place.folder / f"{name}.faa", make_proteins(4 + number, seed=number))
    configure(place, model)
    return place


@pytest.fixture(scope="module")
def made(place):
    """The first run, for `verify`: there is nothing yet."""
    return place.run("verify")


@pytest.fixture
def finished(place, made, tmp_path):
    return place.copy_to(tmp_path / "run")


def test_results_are_made_and_then_verified(made):
    assert (made.jobs["merge"], made.jobs["verify"]) == (2, 1)
    for count, name in enumerate(NAMES, 4):
        assert f"\nverify: {RESULT.format(name)}: {count} sequences, all is well\n" in made.text


def test_results_are_verified_on_request_only(finished):
    for _ in range(2):
        assert finished.run("verify").jobs == {"verify": 1, "total": 1}
    assert finished.plan().nothing_to_do


def test_a_wrong_result_fails_the_run_and_stays(finished):
    path = finished.folder / RESULT.format("second")
    with h5py.File(path, "r+", locking=False) as file:
        file["embeddings"][3, 0] = np.nan
    seal(path)
    outcome = finished.run("verify", ok=False)
    wrong = f"{RESULT.format('second')}: embeddings, row 3 (of 'p3'): has a value that is not"
    assert f"\nverify: {wrong}" in outcome.text
    assert f".log: 1 of 2 files are wrong: {RESULT.format('second')}\n" in outcome.text
    assert all((finished.folder / RESULT.format(name)).exists() for name in NAMES)


def test_on_quarantine_fail_computes_nothing_and_is_checked_once(finished, model):
    configure(finished, model, on_quarantine="fail")
    assert finished.run().jobs == {"check_quarantine": 2, "all": 1, "total": 3}
    assert all((finished.folder / CHECKED.format(name)).exists() for name in NAMES)
    assert finished.plan().nothing_to_do
    configure(finished, model, on_quarantine="warn")
    assert finished.plan().nothing_to_do
