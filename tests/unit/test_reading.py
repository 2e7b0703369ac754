"""The public face of results: rows by id, by slice, in chunks, as a frame; what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from broken_files import flip
from known_files import write_known_file
from test_golden import GOLDEN, Golden
from worker_imports import find_foreign, modules_after
from worker_runs import SCRIPTS

from seqembed.errors import ShardError
from seqembed.reading import Result, ResultError, SeqembedError, UnknownIdError, open_result

IDS = ["sp|P1|A", "b", "näme", "7", "e", "f", "g"]
LENGTHS = np.array([3, 1, 0, 2, 5, 1, 4])
COUNT, WIDTH = len(IDS), 5


def write_result(path: Path, count: int = COUNT, names: list[str] | None = None, **more) -> Path:
    """Write a result of rows that differ, with the ids IDS or these names."""
    digests = np.random.default_rng(count).integers(0, 256, (count, 16), np.uint8)
    lengths = LENGTHS if count == COUNT else np.ones(count, np.int64)
    settings = {"width": WIDTH, "kind": "embeddings", "model": "tiny"} | more
    return write_known_file(
        path, lengths, digests, names=IDS if names is None else names, **settings
    )


@pytest.fixture(params=["float32", "float16"])
def path(tmp_path, request) -> Path:
    return write_result(tmp_path / "embeddings.h5", storage=request.param, tokens=True, width=4)


def stored(path: Path, name: str = "embeddings") -> np.ndarray:
    """A dataset of the file, read by h5py alone."""
    with h5py.File(path, locking=False) as file:
        return file[name][:]


def assert_copy(found: np.ndarray, expected: np.ndarray) -> None:
    """The array is equal, of the same dtype, and no view of anything."""
    assert type(found) is np.ndarray and found.flags.writeable
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_rows_by_id(path):
    rows = stored(path)
    with open_result(path) as result:
        for place, name in enumerate(IDS):
            assert_copy(result[name], rows[place])
        assert_copy(result[np.str_("7")], rows[3])
        assert_copy(result.rows(["g", "b", "g"]), rows[[6, 1, 6]])
        assert_copy(result.rows(name for name in IDS[::-1]), rows[::-1])
        assert_copy(result.rows([]), rows[:0])


@pytest.mark.parametrize(
    "part", [slice(2, 5), slice(None), slice(-2, None), slice(None, None, -3), slice(9, 12)]
)
def test_rows_by_slice(path, part):
    with open_result(path) as result:
        assert_copy(result[part], stored(path)[part])


@pytest.mark.parametrize("count", [None, 1, 3, 100])
def test_chunks_have_all_rows_in_order(path, count):
    with open_result(path) as result:
        chunks = list(result.chunks(count))
        assert np.concatenate([ids for ids, _ in chunks]).tolist() == IDS
        assert_copy(np.concatenate([rows for _, rows in chunks]), result[:])
    assert [len(ids) for ids, _ in chunks] == [len(rows) for _, rows in chunks]
    assert len(chunks) == -(-COUNT // (count or COUNT))


def test_a_chunk_has_a_row(path):
    with open_result(path) as result, pytest.raises(ValueError, match="at least 1 row, not -1"):
        next(result.chunks(-1))


def test_residues_of_an_id(path):
    rows, offsets = stored(path, "residues/embeddings"), stored(path, "residues/offsets")
    with open_result(path) as result:
        for place, name in enumerate(IDS):
            assert_copy(result.residues(name), rows[offsets[place] : offsets[place + 1]])
            assert len(result.residues(name)) == LENGTHS[place]
        with pytest.raises(UnknownIdError, match="'P1'"):
            result.residues("P1")


def test_columns_and_attributes(path):
    with open_result(str(path)) as result:
        assert (len(result), result.width, result.dtype) == (COUNT, 4, stored(path).dtype)
        assert result.ids.tolist() == list(result) == IDS
        assert "näme" in result and "name" not in result and 7 not in result
        for name in ("lengths", "flags", "digests"):
            assert_copy(getattr(result, name), stored(path, name))
        assert result.ids[result.lengths > 3].tolist() == ["e", "g"]
        assert result.attributes["model"] == "tiny"
        assert repr(result) == f"<Result {path}: 7 rows of 4 values, tiny>"


def test_a_frame(path):
    rows = stored(path)
    with open_result(path) as result:
        frame = result.frame()
        assert (frame.index.tolist(), frame.index.name) == (IDS, "sequence_id")
        assert frame.columns.tolist() == ["dim_0", "dim_1", "dim_2", "dim_3"]
        assert_copy(frame.to_numpy(copy=True), rows)
        # faiss and others take arrays in C order only.
        assert frame.to_numpy().flags.c_contiguous
        part = result.frame(["g", "b"], lengths=True, flags=True)
    assert part.columns.tolist() == ["length", "flags", *frame.columns]
    assert part["length"].to_dict() == {"g": 4, "b": 1}
    assert part["flags"].tolist() == stored(path, "flags")[[6, 1]].tolist()
    assert_copy(part.filter(like="dim_").to_numpy(copy=True), rows[[6, 1]])


def test_a_result_of_no_sequence(tmp_path):
    empty = write_result(tmp_path / "empty.h5", 0, [])
    with open_result(empty) as result:
        assert (len(result), result.ids.tolist(), list(result.chunks())) == (0, [], [])
        assert result[:].shape == (0, WIDTH) == result.frame().shape
        with pytest.raises(UnknownIdError, match="no row has the id 'a'; .* are none$"):
            result["a"]


def test_an_unknown_id_is_named_with_ids_that_the_file_has(path):
    message = f"{path}: no row has the id 'P1'; ids of this file are 'sp|P1|A', 'b', 'näme', ..."
    with open_result(path) as result:
        with pytest.raises(KeyError, match=f"^{re.escape(message)}$"):
            result["P1"]
        for ask in (result.rows, result.frame):
            with pytest.raises(UnknownIdError, match="the id 'x', 'y', 'z', ...; ids of"):
                ask(["b", *"xyzw"])
        assert isinstance(pytest.raises(UnknownIdError, result.rows, ["x"]).value, SeqembedError)


def test_a_quarantined_id_is_named_with_the_reason():
    golden = Golden(GOLDEN / "tokens")
    table = golden.folder / "quarantine.tsv"
    with open_result(golden.folder / "embeddings.h5") as result:
        for row in set(range(len(golden.ids))) - set(golden.kept):
            message = f"the id {golden.ids[row]!r}; {table} says why: {golden.excluded[row]}"
            with pytest.raises(UnknownIdError, match=f"{re.escape(message)}$"):
                result[golden.ids[row]]


@pytest.mark.parametrize("lines", ["bc\twrong\n", "reason\tb\n", "", None])
def test_only_a_line_of_the_id_gives_a_reason(path, lines):
    table = path.with_name("quarantine.tsv")
    if lines is None:
        table.mkdir()
    else:
        table.write_text(f"sequence_id\treason\n{lines}")
    with open_result(path) as result, pytest.raises(UnknownIdError, match="'x'; ids of this file"):
        result["x"]
    with open_result(path) as result, pytest.raises(UnknownIdError, match="sequence_id'; ids of"):
        result["sequence_id"]


def test_the_reason_of_an_id_with_a_tab(path):
    path.with_name("quarantine.tsv").write_text("sequence_id\treason\na\\tb\tit failed\n")
    with open_result(path) as result, pytest.raises(UnknownIdError, match="why: it failed$"):
        result["a\tb"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda result: result[3],
        lambda result: result[["b"]],
        lambda result: result.rows("b"),
        lambda result: result.rows([7]),
        lambda result: result.frame("b"),
    ],
)
def test_what_is_not_an_id_is_refused(path, ask):
    with open_result(path) as result, pytest.raises(TypeError, match="text|list of ids"):
        ask(result)


def test_a_file_without_rows_of_residues(tmp_path):
    path = write_result(tmp_path / "embeddings.h5")
    with open_result(path) as result, pytest.raises(ResultError, match=f"^{path}: .*per_residue"):
        result.residues("b")


USES: list[Callable[[Result], object]] = [
    len,
    list,
    lambda result: "b" in result,
    lambda result: result["b"],
    lambda result: result[:2],
    lambda result: result.rows(["b"]),
    lambda result: next(result.chunks()),
    lambda result: result.residues("b"),
    lambda result: result.frame(),
    *(lambda result, name=name: getattr(result, name) for name in ("ids", "width", "dtype")),
    *(lambda result, name=name: getattr(result, name) for name in ("lengths", "attributes")),
]


@pytest.mark.parametrize("use", USES)
def test_a_closed_result_says_so(path, use):
    with open_result(path) as result:
        use(result)
    with pytest.raises(ResultError, match=f"^{path}: this result is closed; open it again$"):
        use(result)
    result.close()
    assert repr(result) == f"<Result {path}: closed>"


def test_arrays_outlive_the_result_and_its_file(path):
    expected, tokens = stored(path), stored(path, "residues/embeddings")
    with open_result(path) as result:
        rows, row, residues, frame = result[:], result["g"], result.residues("g"), result.frame()
    with path.open("r+b") as file:
        file.truncate(0)
    assert_copy(rows, expected)
    assert_copy(row, expected[-1])
    assert_copy(residues, tokens[-4:])
    np.testing.assert_array_equal(frame.to_numpy(), expected)


def test_a_changed_array_does_not_change_the_file(path):
    before = path.read_bytes()
    with open_result(path) as result:
        result[:][:] = 0
        result["b"][:] = 0
        result.residues("b")[:] = 0
        with pytest.raises(ValueError, match="read-only"):
            result.ids[0] = "other"
        assert_copy(result[:], stored(path))
    assert path.read_bytes() == before


def test_a_result_that_was_replaced_is_not_mixed_with_the_new_one(path, tmp_path):
    other = write_result(tmp_path / "other.h5", names=list("tuvwxyz"))
    with open_result(path) as result:
        result["b"]
        os.replace(other, path)
        with pytest.raises(ShardError, match=f"^{path}: was cut or replaced"):
            result["b"]


def test_token_rows_are_asked_for_by_a_text(path):
    with open_result(path) as result, pytest.raises(TypeError, match="^an id is text, not 5$"):
        result.residues(5)


def test_a_removed_file_can_be_read_while_it_is_open(path):
    rows = stored(path)
    with open_result(path) as result:
        path.unlink()
        assert_copy(result[:], rows)
        assert_copy(result["g"], rows[-1])


def test_the_folder_may_change_while_a_result_is_open(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with open_result(path.name) as result:
        monkeypatch.chdir("/")
        assert_copy(result["g"], stored(path)[-1])


def test_each_byte_is_checked_unless_the_user_says_no(path):
    with h5py.File(path, locking=False) as file:
        place = file["embeddings"].id.get_offset()
    flip(path, place)
    with pytest.raises(ShardError, match=f"^{path}: damaged since it was written"):
        open_result(path)
    with open_result(path, check=False) as result:
        assert_copy(result[:], stored(path))


def test_a_file_that_another_program_wrote_opens_unchecked(path, tmp_path):
    copy = tmp_path / "copy.h5"
    with h5py.File(path, locking=False) as file, h5py.File(copy, "w") as new:
        new.attrs.update(file.attrs)
        for name in file:
            file.copy(name, new)
    with pytest.raises(ResultError, match="is not a file of seqembed"):
        open_result(copy)
    with open_result(copy, check=False) as result:
        assert_copy(result["g"], stored(path)[-1])


@pytest.mark.parametrize("name", ["missing.h5", "."])
def test_a_path_that_is_not_a_file(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ResultError, match=f"^{path}: is not a file; .*results/mine/embeddings.h5$"):
        open_result(path)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("kind", ["fasta", "empty", "hdf5"])
def test_a_file_of_another_program_is_not_to_be_removed(tmp_path, kind, check):
    path = tmp_path / "other"
    path.write_text(">a\nMKV\n" if kind == "fasta" else "")
    if kind == "hdf5":
        with h5py.File(path, "w") as file:
            file["P12345"] = np.ones(4, np.float32)
            file.attrs["model"] = "toy"
    message = "is not a file of seqembed; give the path of a result, such as results/mine/"
    with pytest.raises(ResultError, match=f"^{path}: {message}"):
        open_result(path, check=check)


def test_a_shard_is_refused():
    path = GOLDEN / "shard_1.h5"
    with pytest.raises(ResultError, match=f"^{path}: .*'shard', not a whole result"):
        open_result(path)


@pytest.mark.parametrize("names", [["a", "b", "a"], ["a", "a", "b"]])
def test_an_id_that_is_there_twice_is_refused(tmp_path, names):
    path = write_result(tmp_path / "embeddings.h5", 3, names)
    with (
        open_result(path) as result,
        pytest.raises(ShardError, match=f"^{path}: has the id 'a' twice"),
    ):
        result["b"]


@pytest.mark.parametrize("folder", ["", "tokens", "quarantine"])
def test_a_file_of_the_first_format(folder, tmp_path):
    golden = Golden(GOLDEN / folder)
    with open_result(golden.folder / "embeddings.h5") as result:
        if folder == "quarantine":
            assert (result.ids.tolist(), len(result.rows(["s4", "s0"]))) == (["s0", "s2", "s4"], 2)
            return
        assert result.ids.tolist() == golden.of("ids", golden.kept)
        assert result.dtype == golden.storage
        for place, name in enumerate(result):
            golden.assert_near(result[name][0], golden.values[place])
            if golden.token_values:
                golden.assert_near(result.residues(name)[:, 0], golden.token_values[place])


def test_a_stored_result_opens(tmp_path, path):
    (tmp_path / "store").mkdir()
    shutil.copy(path, tmp_path / "store/0123456789ab.h5")
    with open_result(tmp_path / "store/0123456789ab.h5") as result:
        assert "b" in result


MANY = 200_000


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    names = [f"tr|A0A{number:07}|A0A{number:07}_9BACT" for number in range(MANY)]
    return write_result(tmp_path_factory.mktemp("many") / "embeddings.h5", MANY, names, width=32)


@pytest.fixture
def traced():
    tracemalloc.start()
    yield tracemalloc.get_traced_memory
    tracemalloc.stop()


def test_a_lookup_keeps_24_bytes_an_id(many, traced):
    with open_result(many) as result:
        before, _ = traced()
        assert len(result["tr|A0A0123456|A0A0123456_9BACT"]) == 32
        assert "tr|A0A0123456|A0A0123456_9BACTx" not in result
        kept = traced()[0] - before
    assert 24 * MANY <= kept < 25 * MANY


def test_the_memory_of_chunks_does_not_grow_with_the_file(many, traced):
    with open_result(many) as result:
        sizes = [rows.nbytes for _, rows in result.chunks(1000)]
        peak = traced()[1]
    # A stretch of the file is read into a buffer of 1 MB, beside a chunk and its ids.
    assert sum(sizes) == MANY * 32 * 4 > 8 * peak


def test_importing_takes_three_packages():
    path = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})"
    seen = modules_after(f"{path}; from seqembed.reading import open_result")
    allowed = {"h5py", "numpy", "seqembed", "xxhash"}
    assert "seqembed.reading.result" in seen
    assert find_foreign(set(seen), allowed, modules_after("pass")) == []
