"""Exports are made on request, of the result that is there, whatever the files' times say."""

from __future__ import annotations

import os
import shutil

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
    place.run(PARQUET)
    return place


@pytest.fixture
def exported(base, tmp_path):
    return base.copy_to(tmp_path / "run")


def result_rows(place: Place) -> np.ndarray:
    with h5py.File(place.folder / RESULT, locking=False) as file:
        return file["embeddings"][:]


def exported_rows(place: Place) -> np.ndarray:
    return np.stack(pq.read_table(place.folder / PARQUET)["vector"].to_numpy())


def assert_up_to_date(place: Place, pooling: str) -> None:
    """The export is of the result, which has this pooling; and nothing more is to be done."""
    with h5py.File(place.folder / RESULT, locking=False) as file:
        assert file.attrs["pooling"] == pooling
    assert np.array_equal(exported_rows(place), result_rows(place))
    assert place.plan(PARQUET).nothing_to_do


def test_an_export_is_made_once_and_not_with_all(base):
    assert_up_to_date(base, "mean")
    outcome = base.plan()
    assert "export" not in outcome.jobs and not outcome.jobs.get("merge")


def test_every_export_of_one_result(exported, model):
    assert exported.run(UNIPROT, NPY, H5AD).jobs == {
        **dict.fromkeys(("export", "export_npy", "export_anndata"), 1),
        "total": 3,
    }
    rows = result_rows(exported)
    assert np.array_equal(np.load(exported.folder / NPY), rows)
    ids = (exported.folder / NPY).with_name("ids.txt").read_text().split()
    assert ids == [f"p{number}" for number in range(COUNT)]
    with h5py.File(exported.folder / UNIPROT) as file:
        assert np.array_equal(np.stack([file[name][:] for name in ids]), rows)
    with h5py.File(exported.folder / H5AD) as file:
        assert np.array_equal(file["X"][:], rows)
        assert set(file["obs/description"].asstr()[:]) == {"about"}
    assert exported.plan(PARQUET, UNIPROT, NPY, H5AD).nothing_to_do


def test_rows_of_residues_are_exported_or_asked_for(exported, model):
    outcome = exported.run(RESIDUES, ok=False)
    message = "has no rows of residues; set `embedding: {per_residue: true}` and run again"
    assert f"export: {RESULT}: {message}" in outcome.text
    configure(exported, model, "cls")
    exported.run(RESIDUES)
    with h5py.File(exported.folder / RESIDUES) as file, h5py.File(exported.folder / RESULT) as made:
        assert np.array_equal(
            np.concatenate([file[f"p{number}"][:] for number in range(COUNT)]),
            made["residues/embeddings"][:],
        )


def test_an_export_follows_the_settings_to_a_new_result_and_back(exported, model):
    """Back at `mean`, the merge links the old file, whose time is that of the first run."""
    for pooling in ("max", "mean"):
        configure(exported, model, pooling)
        exported.run(PARQUET)
        assert_up_to_date(exported, pooling)


def test_an_export_of_mean_counts_again_after_results_that_were_not_exported(exported, model):
    for pooling in ("max", "mean"):
        configure(exported, model, pooling)
        exported.run()
    assert exported.plan(PARQUET).nothing_to_do
    assert_up_to_date(exported, "mean")


@pytest.mark.parametrize("older", [True, False], ids=["older", "newer"])
def test_a_result_that_is_replaced_by_hand_is_exported(exported, older):
    """The other result is older, or newer, than the export."""
    result = exported.folder / RESULT
    other = shutil.copy(result, result.with_name("other.h5"))
    with h5py.File(other, "r+", locking=False) as file:
        file["embeddings"][:] += 1
    seal(other)
    if older:
        then = result.stat().st_mtime - 3600
        os.utime(other, (then, then))
    os.rename(other, result)
    assert exported.run(PARQUET).jobs == ONE
    assert_up_to_date(exported, "mean")


def jobs_for(place: Place, *targets: str) -> dict[str, int]:
    return {k: v for k, v in place.plan(*targets).jobs.items() if k != "total"}


def test_settings_of_exports_make_exports_anew_and_nothing_else(exported, model):
    exported.run(NPY, H5AD)
    table = exported.folder / "table.tsv"
    table.write_text("id\tkind\np1\tred\n")
    configure(exported, model, exports={"annotations": "table.tsv"})
    assert jobs_for(exported, PARQUET, NPY, H5AD) == {"export_anndata": 1}
    exported.run(H5AD)
    table.write_text("id\tkind\np1\tblue\n")
    outcome = exported.run(H5AD)
    assert outcome.jobs == {"export_anndata": 1, "total": 1}
    assert "table.tsv: 1 of 12 ids have annotations; 0 of its ids are not in" in outcome.text
    with h5py.File(exported.folder / H5AD) as file:
        assert file["obs/kind/categories"].asstr()[:].tolist() == ["blue"]
    own = {"fasta": "my.faa", "model": "esm2_random", "exports": {"dtype": "float16"}}
    configure(exported, model, datasets={"mine": own})
    assert jobs_for(exported, PARQUET, NPY) == {"export": 1, "export_npy": 1}
    exported.run(NPY)
    assert np.array_equal(np.load(exported.folder / NPY), result_rows(exported).astype(np.float16))


def test_a_missing_table_is_named_before_anything_runs(exported, model):
    configure(exported, model, exports={"annotations": "missing.tsv"})
    outcome = exported.plan(H5AD, ok=False)
    assert "missing.tsv: `exports: {annotations: ...}` names this file" in outcome.text
    assert exported.plan(PARQUET).nothing_to_do
