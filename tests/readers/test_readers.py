"""Exports read back by the programs that they are made for; needs the extra `readers`."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import anndata
import duckdb
import h5py
import numpy as np
import polars
import pyarrow.dataset
import pytest
from exported import EXPORTS, ODD, PER_RESIDUE, SEQUENCES, Exported, write_result

from seqembed.export.uniprot import dataset_name

TABLE = "id\tkind\tcount\tscore\nNA\tred\t3\t\na/b\tblue\t\t0.5\nother\tgreen\t1\t1\n"


@pytest.fixture(scope="module", params=["float32", "float16"])
def dtype(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    return write_result(tmp_path_factory.mktemp("exported"), shift=0.1)


@pytest.fixture(scope="module")
def paths(exported, dtype) -> dict[str, Path]:
    """Each export, by name; embeddings.h5ad with annotations."""
    table = exported.folder / "table.tsv"
    table.write_text(TABLE)
    return {name: exported.export(name, dtype, table) for name in (*EXPORTS, PER_RESIDUE)}


@pytest.fixture
def rows(exported, dtype) -> np.ndarray:
    return exported.rows.astype(dtype)


def assert_same(found: Any, rows: np.ndarray) -> None:
    """The same values to the bit, in a type that may be wider."""
    array = np.asarray(found)
    assert array.shape == rows.shape
    assert np.array_equal(array.astype(rows.dtype).view(np.uint8), rows.view(np.uint8))


def test_pyarrow_reads_a_dataset(paths, exported, rows):
    table = pyarrow.dataset.dataset(paths["embeddings.parquet"]).to_table()
    assert table["id"].to_pylist() == exported.ids
    assert_same(table["vector"].combine_chunks().flatten().to_numpy().reshape(rows.shape), rows)


def test_duckdb_reads_and_filters_parquet(paths, exported, rows):
    path = paths["embeddings.parquet"]
    found = duckdb.sql(f"select id, length, digest, vector from '{path}'").fetchall()
    assert [one[0] for one in found] == exported.ids
    assert [one[1] for one in found] == [len(text) for text in ODD.values()]
    assert {len(one[2]) for one in found} == {16}
    assert_same([one[3] for one in found], rows)
    width = rows.shape[1]
    near = f"array_cosine_similarity(vector::float[{width}], vector::float[{width}])"
    (one,) = duckdb.sql(f"select {near} from '{path}' where id = 'a/b'").fetchall()
    assert one[0] == pytest.approx(1)


def test_polars_reads_parquet(paths, exported, rows):
    frame = polars.read_parquet(paths["embeddings.parquet"])
    assert frame["id"].to_list() == exported.ids
    assert_same(frame["vector"].to_numpy(), rows)
    lazy = polars.scan_parquet(paths["embeddings.parquet"]).filter(polars.col("length") == 5)
    assert lazy.collect()["id"].to_list() == [name for name, text in ODD.items() if len(text) == 5]


def test_pandas_reads_parquet(paths, exported, rows):
    import pandas

    frame = pandas.read_parquet(paths["embeddings.parquet"])
    assert frame["id"].tolist() == exported.ids
    assert_same(np.stack(frame["vector"]), rows)


def test_numpy_maps_the_array(paths, exported, rows):
    found = np.load(paths["embeddings.npy"], mmap_mode="r")
    assert_same(found, rows)
    assert found.dtype == rows.dtype
    with paths["embeddings.npy"].with_name("ids.txt").open(encoding="utf-8") as lines:
        assert [line.rstrip("\n") for line in lines] == exported.ids


def test_h5py_reads_a_dataset_for_each_id_as_of_uniprot(paths, exported, rows):
    with h5py.File(paths["uniprot.h5"], "r") as file:
        found = {dataset.attrs["original_id"]: np.array(dataset) for dataset in file.values()}
        assert_same(file["plain"], rows[exported.ids.index("plain")])
    assert found.keys() == set(exported.ids)
    assert_same([found[name] for name in exported.ids], rows)


def test_h5py_reads_rows_of_residues_as_of_bio_embeddings(paths, exported, dtype):
    with h5py.File(paths[PER_RESIDUE], "r") as file:
        for dataset in file.values():
            name = dataset.attrs["original_id"]
            assert len(dataset) == len(SEQUENCES[name])
            assert_same(dataset, exported.tokens[name].astype(dtype))


def load_protspace_reader() -> ModuleType:
    """ProtSpace's own module that reads HDF5 files.

    Its package imports programs that have nothing to do with reading, and are not installed: the
    packages above the module are made without running what is in their __init__.py.
    """
    root = importlib.util.find_spec("protspace")
    assert root and root.submodule_search_locations
    folder = Path(root.submodule_search_locations[0])
    for name, place in (("protspace.data", "data"), ("protspace.data.loaders", "data/loaders")):
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder / place)]
        sys.modules[name] = importlib.util.module_from_spec(spec)
    return importlib.import_module("protspace.data.loaders.h5")


def test_protspace_reads_its_model_and_rows(paths, exported, rows):
    found = load_protspace_reader().load_h5([paths["uniprot.h5"]])
    assert found.name == "toy"
    places = [found.headers.index(dataset_name(name)) for name in exported.ids]
    assert_same(found.data[places], rows)


@pytest.mark.parametrize("backed", [None, "r"])
def test_anndata_reads_rows_and_annotations(paths, exported, rows, backed):
    found = anndata.read_h5ad(paths["embeddings.h5ad"], backed=backed)
    assert found.obs_names.tolist() == exported.ids
    assert found.var_names.tolist() == [f"dim_{number}" for number in range(rows.shape[1])]
    assert_same(found.X[:], rows)
    obs = found.obs
    assert obs["length"].tolist() == [len(text) for text in ODD.values()]
    assert obs["kind"].dropna().to_dict() == {"NA": "red", "a/b": "blue"}
    assert obs["count"].dropna().to_dict() == {"NA": 3}
    assert obs["score"].dropna().to_dict() == {"a/b": 0.5}
    assert found.uns["seqembed"]["model"] == "toy"


# anndata sets an option that pandas 3 does not need.
@pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")
def test_a_part_of_anndata_can_be_taken(paths, rows):
    found = anndata.read_h5ad(paths["embeddings.h5ad"])
    part = found[:5, :2].copy()
    assert_same(part.X, rows[:5, :2])
    assert part.obs["kind"].cat.categories.tolist() == ["blue"]


@pytest.mark.parametrize("names", [{}, {"one": "MKV"}], ids=["none", "one"])
def test_a_result_of_no_or_one_row_can_be_read(tmp_path, names):
    made = write_result(tmp_path, {"failed": SEQUENCES["failed"], **names})
    count = len(names)
    parquet = made.export("embeddings.parquet")
    assert duckdb.sql(f"select count(*) from '{parquet}'").fetchall() == [(count,)]
    assert polars.read_parquet(parquet).height == count
    found = anndata.read_h5ad(made.export("embeddings.h5ad"))
    assert found.shape == (count, 4) and found.obs_names.tolist() == list(names)
