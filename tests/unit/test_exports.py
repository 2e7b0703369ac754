"""Exports of a result: the same ids and numbers, in the layouts of other programs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from broken_files import disk_of, flip
from exported import EXPORTS, LOGGER, ODD, PER_RESIDUE, SEQUENCES, Exported, write_result
from hypothesis import given
from hypothesis import strategies as st

from seqembed.errors import ConfigError, ExportError, SeqembedError, ShardError
from seqembed.export import export as export_module
from seqembed.export import parquet
from seqembed.export.result import Result
from seqembed.export.uniprot import dataset_name
from seqembed.results.seal import read_seal, seal

ALL = (*EXPORTS, PER_RESIDUE)
Contents = tuple[list[str], np.ndarray]


def read_parquet(path: Path) -> Contents:
    table = pq.read_table(path)
    vectors = table["vector"].combine_chunks()
    width = vectors.type.list_size
    return table["id"].to_pylist(), vectors.flatten().to_numpy().reshape(-1, width)


def read_npy(path: Path) -> Contents:
    text = path.with_name("ids.txt").read_bytes().decode()
    return text.split("\n")[:-1], np.load(path)


def read_uniprot(path: Path) -> Contents:
    """In the order of the file, which is that of the names."""
    with h5py.File(path) as file:
        rows = {dataset.attrs["original_id"]: dataset[:] for dataset in file.values()}
    return list(rows), np.stack(list(rows.values())) if rows else np.empty((0, 4), np.float32)


def read_h5ad(path: Path) -> Contents:
    with h5py.File(path) as file:
        return file["obs/_index"].asstr()[:].tolist(), file["X"][:]


READERS: dict[str, Callable[[Path], Contents]] = {
    "embeddings.parquet": read_parquet,
    "uniprot.h5": read_uniprot,
    "embeddings.npy": read_npy,
    "embeddings.h5ad": read_h5ad,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    return write_result(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def small_slabs(monkeypatch) -> None:
    """Have three rows in a slab, and two in a row group."""
    monkeypatch.setattr(Result, "slab_bytes", 3 * 16)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 2 * 16)


def assert_same(name: str, path: Path, ids: list[str], rows: np.ndarray) -> None:
    found_ids, found = READERS[name](path)
    if name == "uniprot.h5":
        assert sorted(found_ids) == sorted(ids)
        found = found[[found_ids.index(one) for one in ids]] if ids else found
    else:
        assert found_ids == ids
    assert found.dtype == rows.dtype and found.tobytes() == rows.tobytes()


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_holds_the_ids_and_rows_of_the_result(exported, name):
    assert exported.ids == list(ODD) and len(exported.rows) == len(ODD)
    assert_same(name, exported.export(name), exported.ids, exported.rows)


@pytest.mark.parametrize("name", EXPORTS)
def test_slabs_change_nothing(exported, name, small_slabs):
    path = exported.export(name)
    assert_same(name, path, exported.ids, exported.rows)
    if name == "embeddings.parquet":
        assert pq.ParquetFile(path).num_row_groups == 7


@pytest.mark.parametrize("slabs", ["usual", "small"])
def test_token_rows_are_exported_by_id(exported, request, slabs):
    if slabs == "small":
        request.getfixturevalue("small_slabs")
    with h5py.File(exported.export(PER_RESIDUE)) as file:
        found = {dataset.attrs["original_id"]: dataset[:] for dataset in file.values()}
    assert found.keys() == exported.tokens.keys()
    for name, rows in exported.tokens.items():
        assert found[name].shape == (len(SEQUENCES[name]), 4)
        assert np.array_equal(found[name], rows)


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_has_the_dtype_asked_for(tmp_path, name, stored, dtype):
    made = write_result(tmp_path, storage=stored, shift=0.1)
    assert_same(name, made.export(name, dtype), made.ids, made.rows.astype(dtype))


@pytest.mark.parametrize("sequences", [{}, {"only/one": "MKV"}], ids=["none", "one"])
@pytest.mark.parametrize("name", ALL)
def test_a_result_of_no_or_one_row_is_exported(tmp_path, name, sequences):
    made = write_result(tmp_path, {"failed": SEQUENCES["failed"], **sequences})
    path = made.export(name)
    if name == PER_RESIDUE:
        with h5py.File(path) as file:
            assert {"%2F".join(one.split("/")) for one in sequences} == set(file)
    else:
        assert_same(name, path, made.ids, made.rows)


@pytest.mark.parametrize("name", EXPORTS)
def test_a_value_that_float16_cannot_hold_is_refused_by_its_id(tmp_path, name):
    made = write_result(tmp_path, shift=[0, 0, 65_504 - 255, 0], tokens=False)
    assert made.rows.max() <= 65_504
    made.export(name, "float16")
    made = write_result(tmp_path, shift=[0, 0, 65_505, 0], tokens=False)
    largest = made.ids[int(made.rows[:, 2].argmax())]
    with pytest.raises(ConfigError, match="and float16 ends at 65,504; set `exports: {dtype:") as e:
        made.export(name, "float16")
    assert f"{made.result}: a value of {largest!r} is {made.rows.max():,.0f}, " in str(e.value)
    assert made.export(name).exists()


def test_a_token_row_that_float16_cannot_hold_is_refused_by_its_id(tmp_path):
    made = write_result(tmp_path, {"a": "MKV", "b": "WE"})
    with h5py.File(made.result, "r+") as file:
        file["residues/embeddings"][3, 1] = -70_000
    seal(made.result)
    with pytest.raises(ConfigError, match=r"a value of 'b' is -70,000"):
        made.export(PER_RESIDUE, "float16")


@given(st.text("%2F5E./a", min_size=1, max_size=8), st.text("%2F5E./a", min_size=1, max_size=8))
def test_two_ids_never_share_a_name(first, second):
    names = [dataset_name(first), dataset_name(second)]
    assert (names[0] == names[1]) == (first == second)
    assert all("/" not in name and name != "." for name in names)


@pytest.mark.parametrize("name", ["P12345", "sp|P1|A_B", "a.b", "..", "100%", "%41", "é"])
def test_a_name_that_hdf5_can_hold_stays_as_it_is(name):
    assert dataset_name(name) == name


def test_an_export_says_what_it_was_made_of(exported):
    line = read_seal(exported.result)
    metadata = pq.read_metadata(exported.export("embeddings.parquet")).metadata
    assert json.loads(metadata[b"seqembed"])["result_seal"] == line
    with h5py.File(exported.export("uniprot.h5")) as file:
        assert (file.attrs["result_seal"], file.attrs["model_name"]) == (line, "toy")
    with h5py.File(exported.export("embeddings.h5ad")) as file:
        about = file["uns/seqembed"]
        assert about["result_seal"].asstr()[()] == line and about["layer"][()] == 6


def test_a_row_group_can_be_read_alone(exported):
    path = exported.export("embeddings.parquet")
    schema = pq.read_schema(path)
    assert schema.names == ["id", "length", "digest", "vector"]
    assert str(schema.field("vector").type).startswith("fixed_size_list<element: float")
    column = pq.read_metadata(path).row_group(0).column(3)
    assert (column.compression, column.encodings[-1]) == ("ZSTD", "BYTE_STREAM_SPLIT")
    table = pq.read_table(path)
    assert table["length"].to_pylist() == [len(text) for text in ODD.values()]


def test_ids_are_one_a_line(tmp_path):
    names = ["b.fa:x\ty", "b.fa:x\\ty", "c\rd"]
    made = write_result(tmp_path, {"x": "MKV", "y": "WE", "z": "AC"})
    with h5py.File(made.result, "r+") as file:
        file["sequence_ids"][:] = names
    seal(made.result)
    path = made.export("embeddings.npy")
    assert path.with_name("ids.txt").read_bytes() == b"b.fa:x\\ty\nb.fa:x\\\\ty\nc\\rd\n"


def test_new_ids_are_never_beside_old_rows(tmp_path, monkeypatch):
    """The run ends where the ids have their name, and the rows have not."""
    path = write_result(tmp_path, {"a": "MKV"}).export("embeddings.npy")
    made = write_result(tmp_path, {"b": "WE"})
    publish = export_module.published

    @contextmanager
    def end_before_rows(output: Path) -> Iterator[Path]:
        with publish(output) as temporary:
            yield temporary
            if output == path:
                raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "published", end_before_rows)
    with pytest.raises(KeyboardInterrupt):
        made.export("embeddings.npy")
    assert path.with_name("ids.txt").read_text() == "b\n"
    assert not path.exists()


@pytest.mark.parametrize("name", ALL)
def test_a_damaged_result_is_refused_and_an_earlier_export_stays(tmp_path, name):
    made = write_result(tmp_path)
    before = made.export(name).read_bytes()
    flip(made.result)
    with pytest.raises(ShardError, match="damaged since it was written"):
        made.export(name)
    others = {"ids.txt"} if name == "embeddings.npy" else set()
    assert {path.name for path in (tmp_path / "export").iterdir()} == {name} | others
    assert (tmp_path / "export" / name).read_bytes() == before


@pytest.mark.parametrize("name", [name for name in ALL if name != "embeddings.npy"])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.95])
def test_what_is_not_read_back_as_it_was_written_gets_no_name(tmp_path, monkeypatch, name, part):
    """Most bytes of the file are those of rows and ids; a flip elsewhere may change nothing."""
    made = write_result(tmp_path, {f"s{n:04}": "MKV" * (n + 1) for n in range(200)})
    write, read = export_module.ONE_FILE.get(name, (export_module.write_h5ad, None))

    def write_and_damage(result: Result, temporary: Path, *others: Any, **options: Any) -> None:
        write(result, temporary, *others, **options)
        content = temporary.read_bytes()
        places = find_rows(content, result)
        flip(temporary, places[int(part * len(places))])

    if read:
        monkeypatch.setitem(export_module.ONE_FILE, name, (write_and_damage, read))
    monkeypatch.setattr(export_module, "write_h5ad", write_and_damage)
    with pytest.raises(ExportError, match="read back|gave back other ids or values"):
        made.export(name)
    assert not list((tmp_path / "export").iterdir())


def find_rows(content: bytes, result: Result) -> list[int]:
    """Places of bytes of rows in an HDF5 file; in a Parquet file, of its first half."""
    if content[:4] == b"PAR1":
        return list(range(100, len(content) // 2))
    rows = (result.file.residues if result.file.residues is not None else result.file.rows)[::7]
    pooled = [content.find(row.tobytes()) for row in (*rows, *result.file.rows[::7])]
    return sorted(place for place in pooled if place > 0)


def test_a_wrong_line_of_ids_is_found(exported, monkeypatch):
    write = export_module.write_npy

    def write_swapped(result: Result, rows: Path, ids: Path) -> None:
        write(result, rows, ids)
        lines = ids.read_bytes().splitlines(keepends=True)
        ids.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))

    monkeypatch.setattr(export_module, "write_npy", write_swapped)
    with pytest.raises(ExportError, match="gave back other ids or values"):
        exported.export("embeddings.npy")


@pytest.mark.parametrize("name", ALL)
def test_a_full_disk_is_named_with_the_export(tmp_path, name):
    made = write_result(tmp_path, {f"s{n:04}": "MKV" * 40 for n in range(300)})
    with disk_of(2000), pytest.raises((SeqembedError, OSError)) as caught:
        made.export(name)
    assert str(tmp_path / "export" / name) in str(caught.value) or "ids.txt" in str(caught.value)
    assert not list((tmp_path / "export").iterdir())


@pytest.mark.parametrize("name", ["embeddings.parquet", "embeddings.npy"])
def test_what_a_killed_export_left_is_removed_and_other_files_are_not(tmp_path, name):
    made, end = write_result(tmp_path), f"{'0' * 32}.tmp"
    folder = tmp_path / "export"
    folder.mkdir()
    own = {f".{name}.{end}"} | ({f".ids.txt.{end}"} if name == "embeddings.npy" else set())
    others = {f".uniprot.h5.{end}", f".{name}.tmp"}
    for left in own | others:
        (folder / left).write_text("left")
    made.export(name)
    assert {path.name for path in folder.glob(".*")} == others


def test_a_shard_is_refused(tmp_path):
    made = write_result(tmp_path, kind="shard")
    with pytest.raises(ExportError, match="is a shard; name the dataset's embeddings.h5"):
        made.export("embeddings.parquet")


def test_a_result_without_token_rows_says_how_to_get_them(tmp_path):
    made = write_result(tmp_path, tokens=False)
    with pytest.raises(ExportError, match="no rows of residues; set `embedding: {per_residue:"):
        made.export(PER_RESIDUE)


def test_an_unknown_name_is_refused(exported):
    with pytest.raises(ConfigError, match="rows.csv: no export has this name; known: embeddings"):
        exported.export("rows.csv")


def test_the_log_says_what_was_written(exported, caplog):
    with caplog.at_level(logging.INFO, LOGGER.name):
        path = exported.export("embeddings.parquet")
    assert f"{path}: 13 rows of 4 float32 values, " in caplog.text
    assert re.search(r"float32 values, [0-9.]+ kB\n", caplog.text)


@pytest.mark.parametrize("name", ALL)
def test_an_export_reports_how_far_it_is(exported, name, small_slabs):
    """The first half is what is written, the second what is read back."""
    told: list[tuple[float, int]] = []
    output = exported.folder / "export" / name
    index = exported.folder / "index.parquet"

    def report(share: float, count: int) -> None:
        told.append((share, count))

    export_module.export(exported.result, output, "float32", LOGGER, index=index, report=report)
    assert told == sorted(told) and len({share for share, _ in told}) > 8
    assert told[-1] == (1.0, len(exported.ids)) and (0.5, len(exported.ids) // 2) in told
