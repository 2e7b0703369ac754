"""The HDF5 files of embeddings."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqembed.errors import ShardError
from seqembed.results import writer as shard_writer
from seqembed.results.reader import (
    SLAB_BYTES,
    SLAB_ROWS,
    open_embeddings,
    pool_token_rows,
    slab_bounds,
)
from seqembed.results.rows import TokenRows
from seqembed.results.seal import seal, verify_seal
from seqembed.results.writer import PACKAGES, Slab, write_embeddings


def _columns(count: int, width: int = 3) -> dict[str, Any]:
    random = np.random.default_rng(count)
    return {
        "sequence_ids": [f"séq|{row}" for row in range(count)],
        "lengths": random.integers(1, 1 << 40, count),
        "digests": random.integers(0, 256, (count, 16), dtype=np.uint8),
        "flags": random.integers(0, 256, count, dtype=np.uint8),
        "embeddings": random.standard_normal((count, width)).astype(np.float32),
    }


def _cut(columns: dict[str, Any], *stops: int) -> list[Slab]:
    starts = [0, *stops[:-1]]
    return [
        Slab(**{name: column[start:stop] for name, column in columns.items()})
        for start, stop in zip(starts, stops, strict=True)
    ]


def _write(path: Path, columns: dict[str, Any], *stops: int, **attributes: Any) -> None:
    count, width = columns["embeddings"].shape
    write_embeddings(
        path,
        count=count,
        width=width,
        storage=columns["embeddings"].dtype.name,
        attributes=attributes,
        slabs=_cut(columns, *(stops or (count,))),
    )


@pytest.mark.parametrize("stops", [(7,), (3, 7), (0, 1, 1, 6, 7, 7)])
def test_a_file_comes_back_as_written(tmp_path, stops):
    columns = _columns(7)
    _write(tmp_path / "new/shard_0.h5", columns, *stops)
    with open_embeddings(tmp_path / "new/shard_0.h5") as file:
        assert (file.count, file.width) == (7, 3)
        assert (file.rows.dtype, file.lengths().dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(file.rows, columns["embeddings"])
        for name in ("lengths", "digests", "flags"):
            np.testing.assert_array_equal(getattr(file, name)(), columns[name])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["shard_0.h5"]


def test_plain_h5py_reads_a_file(tmp_path):
    columns = _columns(5)
    _write(tmp_path / "embeddings.h5", columns)
    with h5py.File(tmp_path / "embeddings.h5") as file:
        assert set(file) == set(columns)
        assert file["embeddings"].dtype == np.float32
        assert file["embeddings"].chunks is None
        assert file["sequence_ids"].asstr()[:].tolist() == columns["sequence_ids"]
        for name in ("embeddings", "lengths", "digests", "flags"):
            np.testing.assert_array_equal(file[name][:], columns[name])
            assert file[name].dtype == columns[name].dtype


def test_an_empty_file_keeps_its_width(tmp_path):
    write_embeddings(
        tmp_path / "a.h5", count=0, width=320, storage="float32", attributes={}, slabs=[]
    )
    with open_embeddings(tmp_path / "a.h5") as file:
        assert file.rows.shape == (0, 320)
        assert (file.count, file.width, file.digests().shape) == (0, 320, (0, 16))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["embeddings"].shape == (0, 320)
        assert file["sequence_ids"].asstr()[:].tolist() == []


def test_long_ids_of_any_script_come_back(tmp_path):
    columns = _columns(4) | {"sequence_ids": ["x" * 1024, "é" * 512, "蛋" * 341, "🧬" * 256]}
    _write(tmp_path / "a.h5", columns, 1, 4)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["sequence_ids"].asstr()[:].tolist() == columns["sequence_ids"]


def test_attributes_tell_what_and_when(tmp_path):
    _write(tmp_path / "a.h5", _columns(1), kind="shard", rank=3, model="esm2_t6")
    with open_embeddings(tmp_path / "a.h5") as file:
        found = file.attributes
    own = {"kind": "shard", "rank": 3, "model": "esm2_t6", "format_version": "1"}
    assert {name: found[name] for name in own} == own
    assert set(found) == {*own, "package_versions", "created"}
    assert type(found["rank"]) is int
    packages = json.loads(found["package_versions"])
    assert set(packages) == set(PACKAGES)
    assert packages["h5py"] == h5py.__version__
    age = datetime.now(UTC) - datetime.fromisoformat(found["created"])
    assert 0 <= age.total_seconds() < 60


# Token rows

OFFSETS = [0, 2, 2, 3, 7, 8]


def _token_rows(storage: str = "float32", total: int = 8) -> np.ndarray:
    return np.arange(3 * total, dtype=storage).reshape(total, 3)


def _replace(path: Path, name: str, value: Any) -> None:
    """Put another dataset in one's place, or none, and seal the file again."""
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value
    seal(path)


def _write_with_tokens(
    path: Path,
    *,
    offsets: Any = OFFSETS,
    stops: Sequence[int] = (8,),
    storage: str = "float32",
    rows: np.ndarray | None = None,
    **attributes: Any,
) -> None:
    """Five sequences, and their token rows in parts that end at `stops`."""
    columns = _columns(5)
    columns["embeddings"] = columns["embeddings"].astype(storage)
    rows = _token_rows(storage) if rows is None else rows
    starts = [0, *stops[:-1]]
    parts = [rows[start:stop] for start, stop in zip(starts, stops, strict=True)]
    write_embeddings(
        path,
        count=5,
        width=3,
        storage=storage,
        attributes=attributes,
        slabs=_cut(columns, 2, 5),
        residues=TokenRows(offsets=np.asarray(offsets), parts=iter(parts)),
    )


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("stops", [(8,), (1, 2, 3, 4, 5, 6, 7, 8), (0, 3, 3, 8)])
def test_token_rows_come_back_as_written(tmp_path, stops, storage):
    path = tmp_path / "a.h5"
    _write_with_tokens(path, stops=stops, storage=storage)
    with open_embeddings(path) as file:
        assert (file.rows.dtype, file.residues.dtype) == (storage, storage)
        assert isinstance(file.residues, np.memmap) and isinstance(file.rows, np.memmap)
        np.testing.assert_array_equal(file.rows, _columns(5)["embeddings"].astype(storage))
        np.testing.assert_array_equal(file.residues, _token_rows(storage))
        assert (file.offsets().tolist(), file.offsets().dtype) == (OFFSETS, np.int64)
    with h5py.File(path) as file:
        assert set(file["residues"]) == {"embeddings", "offsets"}
        assert file["residues/embeddings"].chunks is None
        assert file["residues/embeddings"].dtype == file["embeddings"].dtype == storage
        np.testing.assert_array_equal(file["residues/embeddings"][2:3], _token_rows(storage)[2:3])


def test_an_empty_file_may_keep_token_rows(tmp_path):
    tokens = TokenRows(offsets=np.zeros(1, np.int64), parts=[])
    given: dict[str, Any] = {"count": 0, "width": 3, "storage": "float16", "attributes": {}}
    write_embeddings(tmp_path / "a.h5", **given, slabs=[], residues=tokens)
    _write_with_tokens(tmp_path / "b.h5", storage="float16")
    with open_embeddings(tmp_path / "a.h5") as empty, open_embeddings(tmp_path / "b.h5") as file:
        assert (empty.residues.shape, empty.residues.dtype) == ((0, 3), np.float16)
        assert empty.offsets().tolist() == [0]
        pool = pool_token_rows([empty, file, empty, file])
        np.testing.assert_array_equal(
            np.concatenate(list(pool.take(np.array([0, 8])).parts)),
            file.residues[[0, 1, 3, 4, 5, 6]],
        )


def test_a_file_without_token_rows_has_none_and_neither_has_a_pool_with_it(tmp_path):
    _write(tmp_path / "a.h5", _columns(5))
    _write_with_tokens(tmp_path / "b.h5")
    with open_embeddings(tmp_path / "a.h5") as without, open_embeddings(tmp_path / "b.h5") as file:
        assert without.residues is None
        assert pool_token_rows([without, file]) is None
        assert pool_token_rows([file]) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"stops": (7,)},
        {"stops": (3, 7)},
        {"stops": (8, 9), "rows": _token_rows(total=9)},
        {"stops": (7, 9), "rows": _token_rows(total=9)},
        {"rows": _token_rows()[:, :1]},
        {"rows": _token_rows()[:, :2]},
        {"offsets": OFFSETS[:-1]},
        {"offsets": [*OFFSETS, 8]},
        {"offsets": [1, *OFFSETS[1:]]},
        {"offsets": [0, 2, 1, 3, 7, 8]},
        {"offsets": [0, 9, 9, 9, 9, 8]},
        {"offsets": [-1, 2, 2, 3, 7, 8]},
        {"offsets": np.array(OFFSETS, np.float64)},
    ],
)
def test_token_rows_that_do_not_add_up_leave_the_earlier_file(tmp_path, wrong):
    path = tmp_path / "a.h5"
    path.write_bytes(b"earlier")
    with pytest.raises(ShardError, match=f"^{path}: .*token rows.*run again"):
        _write_with_tokens(path, **wrong)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("residues/embeddings", None),
        ("residues/embeddings", _token_rows(total=7)),
        ("residues/embeddings", _token_rows(total=9)),
        ("residues/embeddings", _token_rows()[:, :2]),
        ("residues/embeddings", _token_rows("float16")),
        ("residues/embeddings", _token_rows("float64")),
        ("residues/embeddings", np.zeros(8, np.float32)),
        ("residues/offsets", None),
        ("residues/offsets", np.array(OFFSETS[:-1])),
        ("residues/offsets", np.array([*OFFSETS, 8])),
        ("residues/offsets", np.array([1, *OFFSETS[1:]])),
        ("residues/offsets", np.array([0, 2, 1, 3, 7, 8])),
        ("residues/offsets", np.array([*OFFSETS[:-1], 7])),
        ("residues/offsets", np.array(OFFSETS, np.int32)),
        ("residues/offsets", np.array(8)),
        ("residues", None),
    ],
)
def test_a_sealed_file_of_other_token_rows_is_refused(tmp_path, name, value):
    path = tmp_path / "a.h5"
    _write_with_tokens(path, per_residue=True)
    _replace(path, name, value)
    with pytest.raises(ShardError, match=f"{path}: has no .*token rows"), open_embeddings(path):
        pass


@pytest.mark.parametrize("name", ["residues/embeddings", "residues/offsets"])
def test_half_of_what_token_rows_need_is_refused_without_the_attribute_too(tmp_path, name):
    path = tmp_path / "a.h5"
    _write_with_tokens(path)
    with h5py.File(path, "r+") as file:
        del file[name]
    seal(path)
    with pytest.raises(ShardError, match=f"{path}: has no .*token rows"), open_embeddings(path):
        pass


def test_a_full_disk_is_told_for_token_rows_too(tmp_path):
    path = tmp_path / "a.h5"
    _write_with_tokens(path)
    size, earlier = path.stat().st_size, path.read_bytes()
    for limit in range(0, size, 64):
        with _disk_of(limit), pytest.raises(ShardError, match=f"{path}: cannot be written"):
            _write_with_tokens(path, stops=(3, 8))
        assert path.read_bytes() == earlier
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("stops", "count", "width"),
    [((2, 4), 5, 3), ((2, 5), 4, 3), ((2, 5), 5, 4), ((5,), 0, 3), ((2, 5), 5, 1)],
)
def test_slabs_that_do_not_add_up_leave_the_earlier_file(tmp_path, stops, count, width):
    path = tmp_path / "a.h5"
    path.write_bytes(b"earlier")
    with pytest.raises(ShardError, match=f"^{path}: .*run again"):
        write_embeddings(
            path,
            count=count,
            width=width,
            storage="float32",
            attributes={},
            slabs=_cut(_columns(5), *stops),
        )
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_of_one_value_are_not_spread_over_the_width(tmp_path):
    with pytest.raises(ShardError, match="of 1 values"):
        write_embeddings(
            tmp_path / "a.h5",
            count=5,
            width=3,
            storage="float32",
            attributes={},
            slabs=_cut(_columns(5, width=1), 5),
        )


def test_a_failing_source_leaves_nothing(tmp_path):
    def slabs():
        yield from _cut(_columns(5), 2)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write_embeddings(
            tmp_path / "a.h5",
            count=5,
            width=3,
            storage="float32",
            attributes={},
            slabs=slabs(),
        )
    assert list(tmp_path.iterdir()) == []


def test_what_the_disk_gives_back_is_compared_before_the_file_gets_its_name(tmp_path, monkeypatch):
    def seal_and_damage(path):
        seal(path)
        _flip(path, -1)

    monkeypatch.setattr(shard_writer, "seal", seal_and_damage)
    with pytest.raises(ShardError, match=f"^{tmp_path / 'a.h5'}: the disk"):
        _write(tmp_path / "a.h5", _columns(5))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_when_all_is_written_gives_no_file(tmp_path, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shard_writer, "sync", fail)
    with pytest.raises(OSError, match=f"Input/output error: '{tmp_path / 'a.h5'}'"):
        _write(tmp_path / "a.h5", _columns(5))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"sequence_ids": ["a"]},
        {"lengths": np.ones(3, np.int64)},
        {"lengths": np.ones((2, 1), np.int64)},
        {"digests": np.zeros((2, 15), np.uint8)},
        {"digests": np.zeros((1, 16), np.uint8)},
        {"flags": np.zeros(1, np.uint8)},
        {"flags": np.zeros((2, 1), np.uint8)},
        {"embeddings": np.zeros(2, np.float32)},
        {"embeddings": np.zeros((3, 2), np.float32)},
        {"embeddings": np.zeros((2, 2, 2), np.float32)},
    ],
)
def test_a_slab_checks_itself(wrong):
    with pytest.raises(ShardError, match="ids stand beside columns"):
        Slab(**_columns(2) | wrong)


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@contextmanager
def _disk_of(size: int) -> Iterator[None]:
    """Let no file grow over this many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("error")
def test_a_full_disk_is_told_and_leaves_the_earlier_file(tmp_path):
    path, columns = tmp_path / "a.h5", _columns(2000)
    _write(path, columns)
    size, earlier = path.stat().st_size, path.read_bytes()
    for limit in [*range(0, size, size // 40), size - 1]:
        with _disk_of(limit), pytest.raises(ShardError, match=f"{path}: cannot be written"):
            _write(path, columns)
        assert path.read_bytes() == earlier
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("error")
def test_a_disk_full_for_a_moment_gives_no_sealed_file_of_other_rows(tmp_path, monkeypatch):
    write_slab = shard_writer._write_slab

    def full_for_a_moment(*arguments: Any) -> int:
        with _disk_of(20_000):
            return write_slab(*arguments)

    monkeypatch.setattr(shard_writer, "_write_slab", full_for_a_moment)
    with pytest.raises(ShardError, match="cannot be written"):
        _write(tmp_path / "a.h5", _columns(2000))
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_is_seen_before_hdf5_opens_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    _write(path, _columns(5))

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("HDF5 opened a damaged file")

    monkeypatch.setattr(h5py, "File", refuse)
    for position in range(0, path.stat().st_size, 97):
        _flip(path, position)
        with pytest.raises(ShardError, match=str(path)), open_embeddings(path):
            pass
        _flip(path, position)
    verify_seal(path)


def test_another_format_version_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    _write(path, _columns(1), format_version="2")
    with pytest.raises(ShardError, match=f"{path}: format version '2'"), open_embeddings(path):
        pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flags", None),
        ("embeddings", np.zeros((3, 4), np.float64)),
        ("embeddings", np.zeros(3, np.float32)),
        ("lengths", np.zeros(2, np.int64)),
        ("digests", np.zeros((3, 15), np.uint8)),
        ("quarantine/digests", np.zeros((3, 16), np.uint8)),
        ("quarantine/reasons", ["a", "b"]),
        ("quarantine", np.zeros(3)),
    ],
)
def test_a_sealed_file_of_another_form_is_refused(tmp_path, name, value):
    path = tmp_path / "a.h5"
    _write(path, _columns(3))
    _replace(path, name, value)
    with pytest.raises(ShardError, match=f"{path}: has no"), open_embeddings(path):
        pass


@pytest.mark.parametrize("kind", ["soft", "link", "storage"])
def test_what_lies_in_another_file_is_refused(kind, tmp_path):
    path, other = tmp_path / "a.h5", tmp_path / "other.h5"
    _write(path, _columns(3))
    _write(other, _columns(3))
    with h5py.File(path, "r+") as file:
        del file["lengths"]
        if kind == "storage":
            (tmp_path / "raw").write_bytes(bytes(24))
            file.create_dataset("lengths", (3,), np.int64, external=[(tmp_path / "raw", 0, 24)])
        else:
            file["lengths"] = (
                h5py.SoftLink("/flags") if kind == "soft" else h5py.ExternalLink(other, "lengths")
            )
    seal(path)
    with pytest.raises(ShardError, match=f"{path}: lengths does not lie"), open_embeddings(path):
        pass


def test_a_missing_file_is_told(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(ShardError, match=f"{path}: cannot be read"), open_embeddings(path):
        pass


@given(st.integers(0, 300_000), st.integers(1, 200_000))
def test_slabs_cover_all_rows_in_bounded_steps(count, width):
    if count * width > SLAB_BYTES * 50:
        count = SLAB_BYTES * 50 // width
    bounds = list(slab_bounds(count, width))
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])][: len(bounds)]
    assert (bounds[-1][1] if bounds else 0) == count
    for start, stop in bounds:
        assert 0 < stop - start <= SLAB_ROWS
        assert 4 * width * (stop - start) <= SLAB_BYTES


def test_a_row_larger_than_a_slab_is_a_slab():
    assert list(slab_bounds(2, SLAB_BYTES)) == [(0, 1), (1, 2)]
