"""The HDF5 files of embeddings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from broken_files import disk_of, flip
from hypothesis import given
from hypothesis import strategies as st

from seqembed.checkpoints.saved_rows import SavedRows, pool_saved_tokens
from seqembed.errors import ShardError
from seqembed.results import writer as shard_writer
from seqembed.results.reader import (
    SLAB_BYTES,
    SLAB_ROWS,
    open_embeddings,
    slab_bounds,
)
from seqembed.results.rows import TokenRows
from seqembed.results.seal import seal, verify_seal
from seqembed.results.writer import PACKAGES, Slab, write_embeddings

# Of five sequences, one of them without a token.
OFFSETS = [0, 2, 2, 3, 7, 8]
IDS = ["x" * 1024, "é" * 512, "蛋" * 341, "🧬" * 256, "séq|4"]


def _columns(count: int, width: int = 3, storage: str = "float32") -> dict[str, Any]:
    random = np.random.default_rng(count)
    return {
        "sequence_ids": [*IDS, *map(str, range(count))][:count],
        "lengths": random.integers(1, 1 << 40, count),
        "digests": random.integers(0, 256, (count, 16), dtype=np.uint8),
        "flags": random.integers(0, 256, count, dtype=np.uint8),
        "embeddings": random.standard_normal((count, width)).astype(storage),
    }


def _token_rows(storage: str = "float32", total: int = 8) -> np.ndarray:
    return np.arange(3 * total, dtype=storage).reshape(total, 3)


TOKEN_ROWS = _token_rows()


def _cut(columns: dict[str, Any], stops: Sequence[int]) -> Iterator[Slab]:
    for start, stop in pairwise([0, *stops]):
        yield Slab(**{name: column[start:stop] for name, column in columns.items()})


def _tokens(
    offsets: Any = OFFSETS, rows: np.ndarray | None = None, stops: Sequence[int] = (8,)
) -> TokenRows:
    """Token rows in parts that end at `stops`."""
    held = TOKEN_ROWS if rows is None else rows
    parts = [held[start:stop] for start, stop in pairwise([0, *stops])]
    return TokenRows(offsets=np.asarray(offsets), parts=parts)


def _write(
    path: Path,
    columns: dict[str, Any] | None = None,
    *,
    stops: Sequence[int] = (),
    tokens: TokenRows | None = None,
    reused: Any = None,
    count: int | None = None,
    width: int = 3,
    **attributes: Any,
) -> Path:
    """Write columns, left out those of five sequences, in slabs that end at `stops`."""
    columns = _columns(5) if columns is None else columns
    held = len(columns["embeddings"])
    write_embeddings(
        path,
        count=held if count is None else count,
        width=width,
        storage=columns["embeddings"].dtype.name,
        attributes=attributes,
        slabs=_cut(columns, stops or (held,)),
        residues=tokens,
        reused=reused,
    )
    return path


def _replace(path: Path, name: str, value: Any) -> None:
    """Put another dataset in one's place, or none, and seal the file again."""
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value
    seal(path)


def _refused(path: Path, problem: str) -> None:
    with pytest.raises(ShardError, match=f"^{path}: .*{problem}"), open_embeddings(path):
        pass


@pytest.mark.parametrize("stops", [(7,), (3, 7), (0, 1, 1, 6, 7, 7)])
def test_a_file_comes_back_as_written(tmp_path, stops):
    columns = _columns(7)
    path = _write(tmp_path / "new/shard_0.h5", columns, stops=stops)
    with open_embeddings(path) as file:
        assert (file.count, file.width, file.residues) == (7, 3, None)
        assert isinstance(file.rows, np.memmap) and file.lengths().dtype == np.int64
        np.testing.assert_array_equal(file.rows, columns["embeddings"])
        for name in ("lengths", "digests", "flags"):
            np.testing.assert_array_equal(getattr(file, name)(), columns[name])
    # As a user reads it.
    with h5py.File(path) as plain:
        assert set(plain) == set(columns)
        assert plain["sequence_ids"].asstr()[:].tolist() == columns.pop("sequence_ids")
        assert plain["embeddings"].chunks is None
        for name, column in columns.items():
            np.testing.assert_array_equal(plain[name][:], column)
            assert plain[name].dtype == column.dtype
    assert list(path.parent.iterdir()) == [path]


def test_attributes_tell_what_and_when(tmp_path):
    path = _write(tmp_path / "a.h5", kind="shard", rank=3, model="esm2_t6")
    with open_embeddings(path) as file:
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


@pytest.mark.parametrize(("stops", "storage"), [((8,), "float32"), ((0, 3, 3, 8), "float16")])
def test_token_rows_come_back_as_written(tmp_path, stops, storage):
    columns, rows = _columns(5, storage=storage), _token_rows(storage)
    path = _write(tmp_path / "a.h5", columns, stops=(2, 5), tokens=_tokens(rows=rows, stops=stops))
    with open_embeddings(path) as file:
        assert (file.rows.dtype, file.residues.dtype) == (storage, storage)
        assert isinstance(file.residues, np.memmap)
        np.testing.assert_array_equal(file.rows, columns["embeddings"])
        np.testing.assert_array_equal(file.residues, rows)
        assert (file.offsets().tolist(), file.offsets().dtype) == (OFFSETS, np.int64)
    with h5py.File(path) as plain:
        assert set(plain["residues"]) == {"embeddings", "offsets"}
        assert plain["residues/embeddings"].chunks is None
        assert plain["residues/embeddings"].dtype == storage
        np.testing.assert_array_equal(plain["residues/embeddings"][2:3], rows[2:3])


def test_an_empty_file_keeps_its_width_and_token_rows(tmp_path):
    none = _tokens(np.zeros(1, np.int64), stops=())
    with (
        open_embeddings(_write(tmp_path / "a.h5", _columns(0), tokens=none)) as empty,
        open_embeddings(_write(tmp_path / "b.h5", tokens=_tokens())) as file,
        open_embeddings(_write(tmp_path / "c.h5")) as without,
    ):
        assert (empty.count, empty.width, empty.digests().shape) == (0, 3, (0, 16))
        assert (empty.rows.shape, empty.residues.shape) == ((0, 3), (0, 3))
        assert empty.offsets().tolist() == [0]
        with_tokens, none = map(SavedRows.of, (file, empty))
        pool = pool_saved_tokens([none, with_tokens, none, with_tokens])
        found = np.concatenate(list(pool.take(np.array([0, 8])).parts))
        np.testing.assert_array_equal(found, file.residues[[0, 1, 3, 4, 5, 6]])
        assert pool_saved_tokens([SavedRows.of(without), with_tokens]) is None


WRONG_OFFSETS = [OFFSETS[:-1], [*OFFSETS, 8], [1, *OFFSETS[1:]], [0, 2, 1, 3, 7, 8]]
WRONG_OFFSETS += [[0, 9, 9, 9, 9, 8], [-1, 2, 2, 3, 7, 8], np.array(OFFSETS, np.float64)]
OTHER_LENGTHS = [_token_rows(total=7), _token_rows(total=9)]
OTHER_TYPES = [_token_rows("float16"), _token_rows("float64")]
OTHER_OFFSETS = [np.array([*OFFSETS[:-1], 7]), np.array(OFFSETS, np.int32), np.array(8)]
OTHER_FORMS: dict[str, list[Any]] = {
    "residues/embeddings": [
        None,
        TOKEN_ROWS[:, :2],
        TOKEN_ROWS[:, 0],
        *OTHER_LENGTHS,
        *OTHER_TYPES,
    ],
    "residues/offsets": [None, *map(np.array, WRONG_OFFSETS), *OTHER_OFFSETS],
    "residues": [None],
    "flags": [None],
    "embeddings": [np.zeros((5, 4), np.float64), np.zeros(5, np.float32)],
    "lengths": [np.zeros(2, np.int64)],
    "digests": [np.zeros((5, 15), np.uint8)],
    "quarantine/digests": [np.zeros((5, 16), np.uint8)],
    "quarantine/reasons": [["a", "b"]],
    "quarantine": [np.zeros(5)],
    "reused/digests": [np.zeros((1, 15), np.uint8), np.zeros((1, 16), np.int8), b"x"],
    "reused/files": [np.zeros(1), [["a"]], "a"],
    "reused": [np.zeros(5)],
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens": _tokens(stops=(7,))},
        {"tokens": _tokens(stops=(3, 7))},
        {"tokens": _tokens(rows=_token_rows(total=9), stops=(8, 9))},
        {"tokens": _tokens(rows=_token_rows(total=9), stops=(7, 9))},
        {"tokens": _tokens(rows=TOKEN_ROWS[:, :1])},
        {"tokens": _tokens(rows=TOKEN_ROWS[:, :2])},
        *({"tokens": _tokens(offsets)} for offsets in WRONG_OFFSETS),
        {"stops": (2, 4)},
        {"stops": (2, 5), "count": 4},
        {"count": 0},
        {"width": 4},
        {"width": 1},
        # HDF5 would spread rows of one value over the whole width.
        {"columns": _columns(5, width=1)},
    ],
)
def test_rows_that_do_not_add_up_leave_the_earlier_file(tmp_path, wrong):
    path = tmp_path / "a.h5"
    path.write_bytes(b"earlier")
    problem = "token rows" if "tokens" in wrong else "got"
    with pytest.raises(ShardError, match=f"^{path}: .*{problem}.*run again"):
        _write(path, **wrong)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OTHER_FORMS.items() for value in values]
)
def test_a_sealed_file_of_another_form_is_refused(tmp_path, name, value):
    path = _write(tmp_path / "a.h5", tokens=_tokens(), per_residue=True)
    _replace(path, name, value)
    _refused(path, "has no .*token rows" if name.startswith("residues") else "has no")


@pytest.mark.parametrize("name", ["residues/embeddings", "residues/offsets"])
def test_half_of_what_token_rows_need_is_refused_without_the_attribute_too(tmp_path, name):
    path = _write(tmp_path / "a.h5", tokens=_tokens())
    _replace(path, name, None)
    _refused(path, "token rows")


REUSED = np.arange(48, dtype=np.uint8).reshape(3, 16), ["/a/b c.h5", "/é/batch_00000.safetensors"]


def test_a_shard_names_rows_that_are_in_other_files(tmp_path):
    with open_embeddings(_write(tmp_path / "a.h5", reused=REUSED)) as file:
        digests, files = file.reused()
        np.testing.assert_array_equal(digests, REUSED[0])
        assert (digests.dtype, files) == (np.uint8, REUSED[1])
        assert file.ids(1, 4) == IDS[1:4] and file.ids(5, 9) == []
    with open_embeddings(_write(tmp_path / "b.h5")) as file:
        digests, files = file.reused()
    assert (digests.shape, digests.dtype, files) == ((0, 16), np.uint8, [])


@pytest.mark.parametrize("name", ["reused/digests", "reused/files"])
def test_half_of_what_reused_rows_need_is_refused(tmp_path, name):
    path = _write(tmp_path / "a.h5", reused=REUSED)
    _replace(path, name, None)
    _refused(path, f"has no {name}")


def test_a_failing_source_leaves_nothing(tmp_path):
    def slabs():
        yield from _cut(_columns(5), [2])
        raise OSError("the disk went away")

    form: dict[str, Any] = {"count": 5, "width": 3, "storage": "float32", "attributes": {}}
    with pytest.raises(OSError, match="went away"):
        write_embeddings(tmp_path / "a.h5", **form, slabs=slabs())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_disk_that_fails_or_damages_what_was_written_gives_no_file(fails, tmp_path, monkeypatch):
    path, fsync, errors = tmp_path / "a.h5", os.fsync, [OSError(5, "Input/output error")]

    def fail_once(descriptor: int) -> None:
        """The system reports an error of the disk once."""
        if errors:
            raise errors.pop()
        fsync(descriptor)

    def seal_and_damage(temporary: Path) -> None:
        seal(temporary)
        flip(temporary)

    if fails:
        monkeypatch.setattr(os, "fsync", fail_once)
        error, message = OSError, f"Input/output error: '{path}'"
    else:
        monkeypatch.setattr(shard_writer, "seal", seal_and_damage)
        error, message = ShardError, f"^{path}: the disk"
    with pytest.raises(error, match=message):
        _write(path)
    assert list(tmp_path.iterdir()) == []


WRONG_SHAPES = {
    "lengths": [(3,), (2, 1)],
    "digests": [(2, 15), (1, 16)],
    "flags": [(1,), (2, 1)],
    "embeddings": [(2,), (3, 2), (2, 2, 2)],
}


def test_a_slab_checks_itself():
    wrong = [(name, np.zeros(s, np.uint8)) for name, shapes in WRONG_SHAPES.items() for s in shapes]
    for name, column in [("sequence_ids", ["a"]), *wrong]:
        with pytest.raises(ShardError, match="beside columns"):
            Slab(**_columns(2) | {name: column})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("count", "tokens", "step"), [(2000, None, 3000), (5, _tokens(), 64)])
def test_a_full_disk_is_named_and_leaves_the_earlier_file(tmp_path, count, tokens, step):
    columns = _columns(count)
    path = _write(tmp_path / "a.h5", columns, tokens=tokens)
    size, earlier = path.stat().st_size, path.read_bytes()
    for limit in [*range(0, size, step), size - 1]:
        with disk_of(limit), pytest.raises(ShardError, match=f"{path}: cannot be written"):
            _write(path, columns, tokens=tokens)
        assert path.read_bytes() == earlier
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("error")
def test_a_disk_full_for_a_moment_gives_no_sealed_file_of_other_rows(tmp_path, monkeypatch):
    write = h5py.Dataset.__setitem__

    def full_for_a_moment(*arguments: Any) -> None:
        with disk_of(20_000):
            write(*arguments)

    monkeypatch.setattr(h5py.Dataset, "__setitem__", full_for_a_moment)
    with pytest.raises(ShardError, match="cannot be written"):
        _write(tmp_path / "a.h5", _columns(2000))
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_is_seen_before_hdf5_opens_the_file(tmp_path, monkeypatch):
    path = _write(tmp_path / "a.h5")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("HDF5 opened a damaged file")

    monkeypatch.setattr(h5py, "File", refuse)
    for position in range(0, path.stat().st_size, 97):
        flip(path, position)
        _refused(path, "")
        flip(path, position)
    verify_seal(path)


def test_another_format_version_and_a_missing_file_are_refused(tmp_path):
    _refused(_write(tmp_path / "a.h5", format_version="2"), "format version '2'")
    _refused(tmp_path / "none.h5", "cannot be read")


@pytest.mark.parametrize("kind", ["soft", "link", "storage"])
def test_what_lies_in_another_file_is_refused(kind, tmp_path):
    path, other = _write(tmp_path / "a.h5"), _write(tmp_path / "other.h5")
    with h5py.File(path, "r+") as file:
        del file["lengths"]
        if kind == "soft":
            file["lengths"] = h5py.SoftLink("/flags")
        elif kind == "link":
            file["lengths"] = h5py.ExternalLink(other, "lengths")
        else:
            (tmp_path / "raw").write_bytes(bytes(40))
            file.create_dataset("lengths", (5,), np.int64, external=[(tmp_path / "raw", 0, 40)])
    seal(path)
    _refused(path, "lengths in it is a link")


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
