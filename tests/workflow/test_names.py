"""File names that a shell or a program could misread, two datasets, and ids by file."""

from __future__ import annotations

import shutil

import h5py
import pytest
from driver import Place, make_proteins, read_rows, write_fasta

ODD_FOLDER = 'it\'s $HOME; "a" & [b] {c}'
ODD_FILES = ["-x.faa", "$(touch oops) `touch oops`.faa", "it's [1].faa", 'a\\ {"q", é}; *.faa']
ODD_MODEL = "-m[o]'d'$e"
PLAIN = "plain-1.0_b"
ODD = "9.odd--names..x"


@pytest.fixture(scope="module")
def place(checkout, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names") / ODD_FOLDER
    folder.mkdir()
    shutil.copytree(model, folder / ODD_MODEL)
    place = Place(checkout, folder)
    proteins = make_proteins(6)
    for number, name in enumerate(ODD_FILES):
        write_fasta(folder / name, make_proteins(3, seed=number))
    for name in ("a.faa", "b.faa"):
        write_fasta(folder / "data" / name, proteins)
    place.configure(
        datasets={
            ODD: {"fasta": ODD_FILES, "model": "odd"},
            PLAIN: {
                "fasta": "data/*.faa",
                "model": "odd",
                "shards": 1,
                "embedding": {"max_length": 20, "long_sequences": "truncate"},
            },
        },
        models={"odd": ODD_MODEL},
        device="cpu",
        ids="file:header",
    )
    return place


@pytest.fixture(scope="module")
def outcome(place):
    return place.run("--snakefile", "workflow/Snakefile")


def test_each_dataset_has_its_own_number_of_shards(place, outcome):
    assert outcome.jobs["embed_shard"] == 3
    assert sorted(outcome.embedded) == [
        f"results/{ODD}/shards/shard_0.h5",
        f"results/{ODD}/shards/shard_1.h5",
        f"results/{PLAIN}/shards/shard_0.h5",
    ]


def test_each_dataset_has_its_own_settings(place, outcome):
    attributes = {}
    for name in (ODD, PLAIN):
        path = place.folder / f"results/{name}/embeddings.h5"
        with h5py.File(path, locking=False) as file:
            attributes[name] = file.attrs["max_length"], file.attrs["long_sequences"]
    assert attributes == {ODD: (1022, "window"), PLAIN: (20, "truncate")}


def test_files_that_share_ids_have_a_row_for_each(place, outcome):
    ids, _ = read_rows(place.folder / f"results/{PLAIN}/embeddings.h5")
    assert ids == [f"{name}:p{n}" for name in ("a.faa", "b.faa") for n in range(6)]


def test_odd_names_are_read_as_they_stand(place, outcome):
    ids, _ = read_rows(place.folder / f"results/{ODD}/embeddings.h5")
    assert ids == [f"{name}:p{n}" for name in ODD_FILES for n in range(3)]
    assert not list(place.folder.glob("oops*"))
    assert not list(place.checkout.glob("oops*"))


def test_the_results_are_named_at_the_end(place, outcome):
    for name in (ODD, PLAIN):
        assert f"\nEmbeddings: {place.folder}/results/{name}/embeddings.h5\n" in outcome.text
