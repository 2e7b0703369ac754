"""Exports are made on request, of the result that is there, whatever the files' times say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from driver import Place, make_proteins, write_fasta

from seqembed.results.seal import seal

COUNT = 12
RESULT = "results/mine/embeddings.h5"
PARQUET, NPY, H5AD = (f"results/mine/export/embeddings.{end}" for end in ("parquet", "npy", "h5ad"))
UNIPROT, RESIDUES = (f"results/mine/export/uniprot{end}.h5" for end in ("", "_per_residue"))
ONE = {"export": 1, "total": 1}


def configure(place: Place, model: str, pooling: str = "mean", **changes) -> None:
    config = {
        "datasets": {"mine": {"fasta": "my.faa", "model": "esm2_random"}},
        "models": {"esm2_random": model},
        "embedding": {"pooling": pooling, "per_residue": pooling == "cls"},
        "shards": 1,
        "device": "cpu",
    }
    place.configure(**config | changes)


@pytest.fixture(scope="module")
def base(open_place, model, tmp_path_factory):
    """A run with `pooling: mean`, exported."""
    place = open_place(tmp_path_factory.mktemp("exports"))
    write_fasta(place.folder / "my.faa", make_proteins(COUNT), description="about")
    configure(place, model)
    place.run(PARQUET, UNIPROT, NPY, H5AD)
    return place


@pytest.fixture
def exported(base, tmp_path):
    return base.copy_to(tmp_path / "run")


def result_rows(place: Place) -> np.ndarray:
    with h5py.File(place.folder / RESULT, locking=False) as file:
        return file["embeddings"][:]


def exported_rows(place: Place) -> np.ndarray:
    return np.stack(pq.read_table(place.folder / PARQUET)["vector"].to_numpy())


def test_every_export_of_one_result(base):
    rows = result_rows(base)
    assert np.array_equal(exported_rows(base), rows)
    assert np.array_equal(np.load(base.folder / NPY), rows)
    ids = (base.folder / NPY).with_name("ids.txt").read_text().split()
    assert ids == [f"p{number}" for number in range(COUNT)]
    with h5py.File(base.folder / UNIPROT, locking=False) as file:
        assert np.array_equal(np.stack([file[name][:] for name in ids]), rows)
    with h5py.File(base.folder / H5AD, locking=False) as file:
        assert np.array_equal(file["X"][:], rows)
        assert set(file["obs/description"].asstr()[:]) == {"about"}


def test_an_export_is_made_once_and_not_with_all(base):
    assert base.plan(PARQUET, UNIPROT, NPY, H5AD).nothing_to_do
    outcome = base.plan()
    assert "export" not in outcome.jobs and not outcome.jobs.get("merge")


def test_exports_follow_the_settings_to_a_new_result_and_back(exported, model):
    """Back at `mean`, the merge links the old file, whose time is that of the first run."""
    outcome = exported.plan(RESIDUES, ok=False)
    message = "has no rows of residues; set `embedding: {per_residue: true}` and run again"
    assert f"uniprot_per_residue.h5: {RESULT} {message}" in outcome.text
    configure(exported, model, "cls")
    exported.run(PARQUET, RESIDUES)
    assert_made_of(exported, "cls")
    with (
        h5py.File(exported.folder / RESIDUES, locking=False) as file,
        h5py.File(exported.folder / RESULT, locking=False) as made,
    ):
        assert np.array_equal(
            np.concatenate([file[f"p{number}"][:] for number in range(COUNT)]),
            made["residues/embeddings"][:],
        )
    configure(exported, model, "mean")
    exported.run(PARQUET)
    assert_made_of(exported, "mean")
    assert exported.plan(PARQUET).nothing_to_do


def assert_made_of(place: Place, pooling: str) -> None:
    """The export is of the result, which has this pooling."""
    with h5py.File(place.folder / RESULT, locking=False) as file:
        assert file.attrs["pooling"] == pooling
    assert np.array_equal(exported_rows(place), result_rows(place))


def test_a_result_that_is_replaced_by_hand_by_an_older_one_is_exported(exported):
    result = exported.folder / RESULT
    other = shutil.copy(result, result.with_name("other.h5"))
    with h5py.File(other, "r+", locking=False) as file:
        file["embeddings"][:] += 1
    seal(other)
    replace_by_older(result, other)
    assert exported.run(PARQUET).jobs == ONE
    assert np.array_equal(exported_rows(exported), result_rows(exported))


def replace_by_older(path: Path, other: Path) -> None:
    """As `mv` and `cp -p` do: the time of the other file stays."""
    then = path.stat().st_mtime - 3600
    os.utime(other, (then, then))
    os.rename(other, path)


def test_settings_of_exports_make_exports_anew_and_nothing_else(exported, model):
    table, other = exported.folder / "table.tsv", exported.folder / "other.tsv"
    table.write_text("id\tkind\np1\tred\n")
    other.write_text("id\tkind\np1\tblu\n")
    configure(exported, model, exports={"annotations": "table.tsv"})
    anndata = {"export_anndata": 1, "total": 1}
    assert exported.run(PARQUET, NPY, H5AD).jobs == anndata
    replace_by_older(table, other)
    outcome = exported.run(PARQUET, NPY, H5AD)
    assert outcome.jobs == anndata
    assert "table.tsv: 1 of 12 ids have annotations; 0 of its ids are not in" in outcome.text
    with h5py.File(exported.folder / H5AD, locking=False) as file:
        assert file["obs/kind/categories"].asstr()[:].tolist() == ["blu"]
    own = {"fasta": "my.faa", "model": "esm2_random", "exports": {"dtype": "float16"}}
    configure(exported, model, datasets={"mine": own})
    assert exported.run(PARQUET, NPY).jobs == {"export": 1, "export_npy": 1, "total": 2}
    assert np.array_equal(np.load(exported.folder / NPY), result_rows(exported).astype(np.float16))


def test_a_missing_table_is_named_before_anything_runs(exported, model):
    configure(exported, model, exports={"annotations": "missing.tsv"})
    outcome = exported.plan(H5AD, ok=False)
    assert "missing.tsv: `exports: {annotations: ...}` names this file" in outcome.text
