"""Rows in several arrays, found by digest."""

from __future__ import annotations

import os
import re
import tracemalloc
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqembed.errors import ShardError
from seqembed.results.rows import RowPool, TokenRowPool, map_rows
from seqembed.storage.digests import DigestIndex, count_distinct, digest_rows

# Few letters, zeros among them, and differences in every part: near misses and duplicates.
DIGEST = st.lists(st.sampled_from([0, 1, 255]), min_size=16, max_size=16).map(
    bytes
) | st.sampled_from([bytes(16), b"\0" * 15 + b"\1", b"\1" + b"\0" * 15, b"\xff" * 16])
# Two that share a half are told apart by the other.
DIGEST |= st.tuples(*[st.sampled_from([b"halffour", b"halffive"])] * 2).map(b"".join)
DIGESTS = st.lists(DIGEST, max_size=20)


@given(DIGESTS, DIGESTS)
def test_an_index_finds_what_a_dict_finds(held, wanted):
    first = {digest: place for place, digest in reversed(list(enumerate(held)))}
    wanted = wanted + held[::2]
    found = DigestIndex(digest_rows(held)).find(digest_rows(wanted))
    assert found.dtype == np.int64
    assert found.tolist() == [first.get(digest, -1) for digest in wanted]


def test_an_index_takes_columns_of_a_larger_array():
    wide = np.arange(96, dtype=np.uint8).reshape(3, 32)
    index = DigestIndex(wide[:, ::2])
    assert index.find(np.ascontiguousarray(wide[::-1, ::2])).tolist() == [2, 1, 0]
    assert index.find(wide[:, 16:]).tolist() == [-1, -1, -1]


@given(DIGESTS, DIGESTS, st.integers(1, 8))
def test_wanted_rows_are_found_as_in_a_dict_however_few_at_once(held, wanted, at_once):
    held, wanted = held + held[::3], list(dict.fromkeys(wanted + held[::2]))
    first = {digest: place for place, digest in reversed(list(enumerate(held)))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqembed.storage.digests.FIND_AT_ONCE", at_once)
        found = DigestIndex(digest_rows(wanted)).find_in(digest_rows(held))
    assert found.dtype == np.int64
    assert found.tolist() == [first.get(digest, -1) for digest in wanted]


def test_to_find_a_few_rows_of_a_large_file_takes_little_memory(monkeypatch):
    monkeypatch.setattr("seqembed.storage.digests.FIND_AT_ONCE", 1000)
    held = np.random.default_rng(1).integers(0, 256, (200_000, 16), np.uint8)
    wanted = held[::20_000]
    tracemalloc.start()
    try:
        assert DigestIndex(wanted).find_in(held).tolist() == list(range(0, 200_000, 20_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # An index of all 200,000 rows would take 5 MB.
    assert peak < 500_000


@given(DIGESTS)
def test_distinct_digests_are_counted(digests):
    assert count_distinct(digest_rows(digests)) == len(set(digests))


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(1, 3), st.data())
def test_a_pool_gives_the_rows_of_its_arrays(counts, width, data):
    starts = np.cumsum([0, *counts])
    total = int(starts[-1])
    values = np.arange(total * width, dtype=np.float32).reshape(total, width)
    arrays = [values[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]
    numbers = st.lists(st.integers(0, total - 1), max_size=12) if total else st.just([])
    places = data.draw(numbers)
    rows = RowPool(arrays, width, "float32").take(np.array(places, np.int64))
    assert rows.dtype == np.float32
    assert rows.shape == (len(places), width)
    assert rows.tolist() == [values[place].tolist() for place in places]


@given(st.lists(st.integers(0, 39), max_size=60), st.integers(0, 60), st.integers(1, 400))
def test_rows_of_mapped_files_come_whatever_their_order(tmp_path_factory, places, first, span):
    """Rows side by side are read together, others one by one, and those of views from the map."""
    path = tmp_path_factory.mktemp("rows") / "rows.raw"
    values = np.arange(60, dtype=np.float32).reshape(20, 3)
    path.write_bytes(bytes(first) + values.tobytes())
    mapped = map_rows(path, np.dtype(np.float32), first, values.shape)
    pool = RowPool([mapped, mapped[5:]], 3, "float32")
    rows = np.concatenate([values, values[5:]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqembed.results.rows.STRETCH_BYTES", span)
        for wanted in (places, sorted(places), range(35)):
            kept = np.array([place for place in wanted if place < 35], np.int64)
            np.testing.assert_array_equal(pool.take(kept), rows[kept])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("named", [True, False])
def test_rows_that_lie_far_apart_take_little_memory_for_what_lies_between(tmp_path, named):
    shape = (1 << 21, 16)
    with (tmp_path / "rows.raw").open("w+b") as file:
        file.write(bytes(128 << 20))
        file.flush()
        mapped = np.memmap(file, np.float32, "r", shape=shape)
    if named:
        mapped = map_rows(tmp_path / "rows.raw", mapped.dtype, 0, shape)
    pool, before = RowPool([mapped], 16, "float32"), _mapped_bytes()
    pool.take(np.arange(0, 1 << 21, 1 << 10))
    assert _mapped_bytes() - before < 4 << 20


def _mapped_bytes() -> int:
    found = re.search("RssFile: *(.*) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("size", [100, 240])
@pytest.mark.parametrize("step", [1, 9])
def test_a_file_that_was_cut_or_replaced_meanwhile_is_named(tmp_path, size, step, early, storage):
    path = tmp_path / "rows.raw"
    path.write_bytes(bytes(240))
    mapped = map_rows(path, np.dtype(np.float32), 0, (20, 3))
    pool = None if early else RowPool([mapped], 3, storage)
    if size == 240:
        path.rename(tmp_path / "old.raw")
    path.write_bytes(bytes(size))
    with pytest.raises(ShardError, match=f"^{path}: was cut or replaced"):
        (pool or RowPool([mapped], 3, storage)).take(np.arange(0, 20, step))


@pytest.mark.parametrize("step", [1, 9])
def test_rows_of_a_file_that_was_removed_meanwhile_come_from_its_map(tmp_path, step):
    path, values = tmp_path / "rows.raw", np.arange(60, dtype=np.float32).reshape(20, 3)
    path.write_bytes(values.tobytes())
    pool = RowPool([map_rows(path, values.dtype, 0, (20, 3))], 3, "float32")
    path.unlink()
    np.testing.assert_array_equal(pool.take(np.arange(0, 20, step)), values[::step])


@pytest.mark.parametrize("step", [1, 9])
def test_a_read_that_stops_half_way_goes_on(tmp_path, monkeypatch, step):
    path, values = tmp_path / "rows.raw", np.arange(60, dtype=np.float32).reshape(20, 3)
    path.write_bytes(values.tobytes())
    pool = RowPool([map_rows(path, values.dtype, 0, (20, 3))], 3, "float32")
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, to, start: whole(file, [to[0][:7]], start))
    np.testing.assert_array_equal(pool.take(np.arange(0, 20, step)), values[::step])
    monkeypatch.setattr(os, "preadv", Mock(side_effect=OSError(5, "Input/output error")))
    with pytest.raises(ShardError, match=f"^{path}: cannot be read .*Input/output error"):
        pool.take(np.arange(0, 20, step))


@pytest.mark.parametrize("width", [1, 2, 6])
def test_an_array_of_another_width_is_refused(tmp_path, width):
    path = tmp_path / "rows.raw"
    path.write_bytes(bytes(48))
    mapped = map_rows(path, np.dtype(np.float32), 0, (12 // width, width))
    with pytest.raises(ShardError, match=f"^{path}: {width} values a row, not 3"):
        RowPool([mapped], 3, "float32")


@pytest.mark.parametrize(
    ("storages", "asked"),
    [(["float16", "float32"], "float32"), (["float16"], "float16"), (["float32"], "float32")],
)
def test_a_pool_gives_rows_in_the_type_asked_for(storages, asked):
    arrays = [np.array([[0.1, 2], [3, 4]], storage) for storage in storages]
    rows = RowPool(arrays, 2, asked).take(np.array([1, 0]))
    assert rows.dtype == asked
    np.testing.assert_array_equal(rows, arrays[0][::-1])
    assert RowPool([], 2, asked).take(np.empty(0, np.int64)).dtype == asked


COUNTS = st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=4)


@given(COUNTS, st.sampled_from([3, 4, 8, 28, 4000]), st.data())
def test_a_pool_gives_each_sequence_its_own_token_rows(counts, part_bytes, data):
    """counts: of each array, the tokens of each of its sequences. A row has 4 bytes."""
    flat = [count for part in counts for count in part]
    values = np.arange(2 * sum(flat), dtype=np.float16).reshape(-1, 2)
    own = np.split(values, np.cumsum(flat))
    arrays = np.split(values, np.cumsum([sum(part) for part in counts]))[: len(counts)]
    pool = TokenRowPool(arrays, [np.append(0, np.cumsum(part, dtype=np.int64)) for part in counts])
    numbers = st.lists(st.integers(0, len(flat) - 1), max_size=8) if flat else st.just([])
    places = np.array(data.draw(numbers), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqembed.results.rows.PART_BYTES", part_bytes)
        found = pool.take(places)
        parts = list(found.parts)
    most = max(1, part_bytes // 4)
    assert all(0 < len(part) <= most and part.dtype == np.float16 for part in parts)
    rows = [row.tolist() for part in parts for row in part]
    assert rows == [row.tolist() for place in places for row in own[place]]
    assert found.offsets.dtype == np.int64
    assert found.offsets.tolist() == [0, *np.cumsum([flat[place] for place in places]).tolist()]


@pytest.mark.parametrize("place", [-1, 3])
def test_a_place_outside_the_pool_is_refused(place):
    pool = RowPool([np.zeros((1, 2), np.float32), np.zeros((2, 2), np.float32)], 2, "float32")
    with pytest.raises(IndexError):
        pool.take(np.array([0, place]))
