"""The short form `fasta=... model=...`: one dataset, alone, and its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqembed.settings.schema import Dataset, complete, get_datasets
from seqembed.settings.short_form import derive_name, is_short

MODEL = "esm2_t6_8M_UR50D"


def _dataset(**given: object) -> Dataset:
    (dataset,) = get_datasets(complete({"model": MODEL} | given)).values()
    return dataset


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        ("my.faa", "my"),
        ("data/my.proteins.fasta.gz", "my.proteins"),
        ("/data/MY.FA.BZ2", "MY"),
        ("a.pep.zst", "a"),
        ("my.v2", "my.v2"),
        ("a b (1)é.faa", "a_b__1__"),
        ("._-x.faa", "x"),
        ("$HOME/x.faa", "x"),
        ("a" * 300 + ".faa", "a" * 200),
        (".faa", None),
        ("é.faa", None),
        ("data/*.faa", None),
        ("a.faa,b.faa", None),
    ],
)
def test_a_dataset_is_named_after_its_only_file(paths, name):
    assert derive_name(paths.split(",")) == name


@pytest.mark.parametrize(
    ("fasta", "paths"),
    [
        ("a.faa,b.faa", ("a.faa", "b.faa")),
        ("a.faa, data/*.faa,", ("a.faa", "data/*.faa")),
        (["a.faa", "b,c.faa"], ("a.faa", "b,c.faa")),
    ],
)
def test_commas_separate_files(fasta, paths):
    dataset = _dataset(fasta=fasta, name="mine")
    assert (dataset.name, dataset.fasta, dataset.model) == ("mine", paths, MODEL)


@pytest.mark.parametrize(
    ("reuse", "paths"),
    [
        ("a.h5, old/*.h5", ("a.h5", "old/*.h5")),
        (["a.h5", "b,c.h5"], ("a.h5", "b,c.h5")),
        ("there,too.h5", ("there,too.h5",)),
        (None, ()),
    ],
)
def test_commas_separate_earlier_results_too(reuse, paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there,too.h5").touch()
    assert _dataset(fasta="my.faa", reuse=reuse).reuse == paths


@pytest.mark.parametrize(("file", "name"), [("a,b.faa", "a_b"), ("a[1].faa", "a_1_")])
def test_a_file_whose_name_looks_like_several_is_one_file(file, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(file).touch()
    dataset = _dataset(fasta=file)
    assert (dataset.name, dataset.fasta) == (name, (file,))


def test_the_short_form_runs_alone_with_all_other_settings():
    config = {
        "datasets": {"other": {"fasta": "o.faa", "model": "DNABERT-S"}},
        "models": {"m": "/data/m"},
        "shards": 4,
        "embedding": {"pooling": "max"},
    }
    completed = complete(config | {"fasta": "my.faa", "model": "m"})
    assert completed["datasets"] == {"my": {"fasta": ["my.faa"], "model": "m"}}
    assert not {"fasta", "model", "name"} & set(completed)
    (dataset,) = get_datasets(completed).values()
    assert (dataset.shards, dataset.request.pooling) == (4, "max")
    assert list(get_datasets(complete(config))) == ["other"]


def test_empty_keys_are_no_short_form():
    config = {"fasta": None, "model": None, "name": None}
    assert not is_short(config)
    assert complete(config) == complete({})
    assert is_short({"name": "mine"})
