"""A checkpoint folder: its manifest, what is finished in it, and how it grows."""

from __future__ import annotations

import json
import logging
import resource
import threading
import time
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from threading import Event, Timer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from broken_files import disk_of, flip
from worker_runs import GOLDEN

from seqembed.checkpoints.blocks import list_blocks, read_block, write_next_block
from seqembed.checkpoints.checkpoint import Checkpoint, clear, open_checkpoint, read_finished
from seqembed.checkpoints.finished_shard import count_duplicate_rows
from seqembed.checkpoints.manifest_and_failures import read_manifest, write_manifest
from seqembed.checkpoints.token_rows import ResidueSpool
from seqembed.errors import CheckpointError
from seqembed.flags import FP32_RETRY
from seqembed.inference.rows import BatchRows
from seqembed.worker import checkpoint_writer
from seqembed.worker.checkpoint_writer import CheckpointWriter

LOGGER = logging.getLogger("seqembed.tests")
MANIFEST = (GOLDEN / "manifest.json").read_text()


def test_a_manifest_is_written_as_the_golden_one(tmp_path):
    folder, manifest = tmp_path / "new", read_manifest(GOLDEN)
    assert read_manifest(folder) is None
    write_manifest(folder, manifest)
    assert [p.name for p in folder.iterdir()] == ["manifest.json"]
    written = json.loads((folder / "manifest.json").read_text())
    assert len(written.pop("checksum")) == 32
    assert written == json.loads(MANIFEST)
    assert read_manifest(folder) == manifest
    grown = json.loads(MANIFEST) | {"later": 1}
    (folder / "manifest.json").write_text(json.dumps(grown))
    assert read_manifest(folder) == manifest


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        MANIFEST[:-20].encode(),
        MANIFEST.replace('"1"', '"2"').encode(),
        MANIFEST.replace('"checkpoint"', '"recipe"').encode(),
        MANIFEST.replace('  "width": 8,\n', "").encode(),
        MANIFEST.replace("4096", "0").encode(),
        MANIFEST.replace("4096", '"4096"').encode(),
    ],
)
def test_a_damaged_manifest_is_named(content, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{path}: damaged manifest .*; remove it"):
        read_manifest(tmp_path)


def test_leftovers_of_killed_workers_are_removed(tmp_path):
    tmp_path = tmp_path / "shard_1"
    spool = ResidueSpool(tmp_path)
    spool.add(0, np.ones((3, 2), np.float32))
    digests, rows, flags = np.zeros((1, 16), np.uint8), np.ones((1, 2)), np.zeros(1, np.uint8)
    residues = spool.seal([0])
    block = write_next_block(
        tmp_path, digests, rows.astype(np.float32), flags, batches=1, residues=residues
    )
    spool.add(1, np.ones((3, 2), np.float32))
    spool.seal([1])
    spool.add(2, np.ones((3, 2), np.float32))
    assert len(list(tmp_path.iterdir())) == 4
    checkpoint = Checkpoint(base=tmp_path.parent, rank=1, locked=False, logger=LOGGER)
    checkpoint.remove_leftovers()
    assert len(list(tmp_path.iterdir())) == 4
    replace(checkpoint, locked=True).remove_leftovers()
    assert set(tmp_path.iterdir()) == {block, tmp_path / residues.name}


def test_what_is_no_file_is_set_aside_like_a_damaged_block(tmp_path, caplog):
    (tmp_path / "batch_00000.safetensors").mkdir()
    (tmp_path / "batch_00001.safetensors").symlink_to(tmp_path / "nowhere")
    (tmp_path / "manifest.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="manifest.json: damaged"):
        read_manifest(tmp_path)
    writer = open_writer(tmp_path)
    add(writer, [1, 2])
    writer.write()
    ids, _ = read_finished(tmp_path, LOGGER)
    assert list(ids) == names_of([1, 2])
    assert caplog.text.count("set aside as") == 2


def test_clear_removes_what_a_worker_left_and_nothing_else(tmp_path):
    (tmp_path / "manifest.json").write_text(MANIFEST)
    add_block(tmp_path, [0, 1])
    (tmp_path / "shard_0.h5").touch()
    for name in (f"residues_{'0f' * 16}.raw", f".residues_{'0e' * 16}.raw.tmp"):
        (tmp_path / name).touch()
    for name in ("notes.txt", "batch_00000.safetensors.damaged"):
        (tmp_path / name).touch()
    clear(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["batch_00000.safetensors.damaged", "notes.txt"]
    clear(tmp_path / "none")


# Row n of the tests' shard has the digest n, n, ... and the values n, n + 0.5, ...


def digests_of(rows: list[int]) -> np.ndarray:
    return np.repeat(np.array(rows, np.uint8)[:, None], 16, axis=1)


def values_of(rows: list[int]) -> np.ndarray:
    return np.array(rows, np.float32)[:, None] + np.arange(4, dtype=np.float32) / 2


def names_of(rows: list[int]) -> list[str]:
    return [bytes([row] * 16).hex() for row in rows]


def add_block(folder: Path, rows: list[int]) -> Path:
    flags = np.zeros(len(rows), np.uint8)
    return write_next_block(folder, digests_of(rows), values_of(rows), flags, batches=1)


def assert_finished(folder: Path, rows: list[int], storage: str = "float32") -> None:
    ids, found = read_finished(folder, LOGGER)
    assert isinstance(ids, Set)
    assert list(ids) == names_of(rows)
    if not rows:
        assert found is None
        return
    assert isinstance(found, np.memmap) and found.dtype == storage
    np.testing.assert_array_equal(found, values_of(rows))
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


def test_nothing_is_finished_in_a_folder_without_rows(tmp_path):
    assert_finished(tmp_path / "none", [])
    assert_finished(tmp_path, [])
    add_block(tmp_path, [])
    assert_finished(tmp_path, [])
    for path in list_blocks(tmp_path):
        path.write_bytes(b"")
    assert_finished(tmp_path, [])


def test_row_i_belongs_to_the_ith_id(tmp_path):
    parts = [[7, 2], [9], [1, 3, 250]]
    for part in parts:
        add_block(tmp_path, part)
    rows = [row for part in parts for row in part]
    assert_finished(tmp_path, rows)


def test_a_sequence_that_two_workers_computed_counts_once(tmp_path):
    for part in ([5, 6, 7], [7, 5, 8], [6]):
        add_block(tmp_path, part)
    assert_finished(tmp_path, [5, 6, 7, 8])


@pytest.mark.parametrize(("place", "left"), [(0, [3, 4]), (1, [1, 2, 4]), (2, [1, 2, 3])])
def test_a_damaged_block_is_set_aside_and_its_rows_do_not_count(place, left, tmp_path, caplog):
    paths = [add_block(tmp_path, part) for part in ([1, 2], [3], [4])]
    flip(paths[place])
    content = paths[place].read_bytes()
    assert_finished(tmp_path, left)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{paths[place]}: damaged checkpoint file (its")
    aside = paths[place].with_name(f"{paths[place].name}.damaged")
    assert f"set aside as {aside.name};" in record.getMessage()
    assert aside.read_bytes() == content and len(list_blocks(tmp_path)) == 2


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def open_writer(folder: Path, clock: Clock | None = None, **changes: Any) -> CheckpointWriter:
    """A writer of a shard of 20 rows, every third one flagged."""
    rows = list(range(20))
    given: dict[str, Any] = {
        "digests": digests_of(rows),
        "flags": np.array([2 if row % 3 == 0 else 0 for row in rows], np.uint8),
        "per_residue": False,
        "sequences": 1000,
        "seconds": 300.0,
        "check": lambda: None,
        "clock": clock or Clock(),
    }
    return CheckpointWriter(folder, **given | changes)


def batch_of(rows: list[int], storage: str = "float32") -> BatchRows:
    return batch_rows(np.array(rows, np.int64), values_of(rows).astype(storage), [])


def batch_rows(positions: np.ndarray, rows: np.ndarray, residues: list, **other: Any) -> BatchRows:
    plain = {"flags": np.zeros(len(positions), np.uint8), "given_up": [], "tokens": 0}
    return BatchRows(positions, rows, residues=residues, **plain | other)


def add(writer: CheckpointWriter, rows: list[int]) -> int:
    return writer.add(batch_of(rows))


def contents(folder: Path) -> list[list[int]]:
    """The rows of each block."""
    blocks = [read_block(path) for path in list_blocks(folder)]
    for block in blocks:
        rows = block.digests[:, 0].tolist()
        np.testing.assert_array_equal(block.rows, values_of(rows))
        assert block.flags.tolist() == [2 if row % 3 == 0 else 0 for row in rows]
    return [block.digests[:, 0].tolist() for block in blocks]


def test_a_block_is_due_after_enough_sequences(tmp_path):
    writer = open_writer(tmp_path, sequences=4)
    counts = [add(writer, rows) for rows in ([0, 1, 2], [3, 4], [5], [6, 7, 8])]
    assert counts == [3, 2, 1, 3]
    assert contents(tmp_path) == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    ranges = [(b.first, b.last) for b in map(read_block, list_blocks(tmp_path))]
    assert ranges == [(0, 1), (2, 3)]


def test_a_block_is_written_before_a_batch_that_would_be_too_much_to_lose(tmp_path):
    writer = open_writer(tmp_path, sequences=4)
    plan = [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9, 10, 11, 12, 13]]
    for batch in writer.make_room(SimpleNamespace(positions=rows) for rows in plan):
        add(writer, batch.positions)
    assert contents(tmp_path) == [[0, 1, 2, 3], [4, 5, 6], [7, 8], [9, 10, 11, 12, 13]]


@pytest.mark.parametrize("begin", [-5.0, 0.0, 1000.0])
def test_a_block_is_due_after_enough_time(begin, tmp_path):
    clock = Clock(begin)
    writer = open_writer(tmp_path, clock, seconds=10)
    for now, rows, blocks in ((9.9, [0], 0), (10, [1], 1), (19.9, [2], 1), (20, [3], 2)):
        clock.now = begin + now
        add(writer, rows)
        assert len(list_blocks(tmp_path)) == blocks
    assert writer.written == begin + 20
    assert contents(tmp_path) == [[0, 1], [2, 3]]


def test_a_block_is_due_before_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "MAX_WAITING_BYTES", 3 * 16)
    writer = open_writer(tmp_path)
    add(writer, [0, 1])
    assert contents(tmp_path) == []
    add(writer, [2])
    assert contents(tmp_path) == [[0, 1, 2]]


def test_a_row_has_the_flags_of_its_sequence_and_those_of_its_computation(tmp_path):
    writer = open_writer(tmp_path)
    flags = np.array([FP32_RETRY, 0, FP32_RETRY], np.uint8)
    writer.add(batch_rows(np.array([3, 6, 7]), values_of([3, 6, 7]), [], flags=flags))
    writer.close()
    (path,) = list_blocks(tmp_path)
    assert read_block(path).flags.tolist() == [2 | FP32_RETRY, 2, FP32_RETRY]


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_ids_and_blocks_say_the_same(storage, tmp_path):
    writer = open_writer(tmp_path, sequences=2)
    for rows in ([4, 3], [9], [8], [0]):
        writer.add(batch_of(rows, storage))
    assert (writer.ids, [len(block) for block in writer.arrays]) == (names_of([4, 3, 9, 8]), [2, 2])
    writer.write()
    writer.write()
    assert writer.ids == names_of([4, 3, 9, 8, 0])
    np.testing.assert_array_equal(np.concatenate(writer.arrays), values_of([4, 3, 9, 8, 0]))
    assert all(isinstance(block, np.memmap) for block in writer.arrays)
    assert [block.dtype for block in writer.arrays] == [storage] * 3
    assert len(list_blocks(tmp_path)) == 3
    assert_finished(tmp_path, [4, 3, 9, 8, 0], storage)


@pytest.mark.parametrize("tokens", [False, True])
def test_without_rows_nothing_is_written(tokens, tmp_path):
    writer = open_writer(tmp_path / "new", per_residue=tokens)
    writer.write()
    writer.close()
    assert (list(tmp_path.iterdir()), writer.ids, writer.written) == ([], [], None)


def test_the_rows_may_change_once_they_are_taken(tmp_path):
    writer, batch = open_writer(tmp_path), batch_of([1, 2])
    writer.add(batch)
    batch.rows[:] = -1
    writer.write()
    assert contents(tmp_path) == [[1, 2]]


# Written in the background.


def test_a_block_is_written_while_further_rows_are_added(tmp_path):
    go, clock = Event(), Clock()
    options = {"sequences": 2, "background": True, "check": lambda: go.wait(20)}
    writer = open_writer(tmp_path, clock, **options)
    add(writer, [0, 1])
    clock.now = 5.0
    add(writer, [2])
    assert (contents(tmp_path), writer.ids, writer.written) == ([], [], None)
    go.set()
    writer.write()
    assert contents(tmp_path) == [[0, 1], [2]]
    assert (writer.ids, writer.computed, writer.written) == (names_of([0, 1, 2]), 3, 5.0)
    assert [len(block) for block in writer.arrays] == [2, 1]
    writer.close()


def test_a_written_block_is_taken_over_by_the_next_batch(tmp_path):
    writer = open_writer(tmp_path, sequences=2, background=True)
    add(writer, [0, 1])
    deadline = time.monotonic() + 20
    while not writer.ids and time.monotonic() < deadline:
        writer.add(BatchRows())
    assert writer.ids == names_of([0, 1]) and writer.written is not None
    writer.close()


def test_one_block_at_a_time_is_written(tmp_path):
    go = Event()
    writer = open_writer(tmp_path, sequences=1, background=True, check=lambda: go.wait(20))
    add(writer, [0])
    Timer(0.2, go.set).start()
    add(writer, [1])
    assert contents(tmp_path)[0] == [0]
    writer.close()
    assert contents(tmp_path) == [[0], [1]]


@pytest.mark.parametrize("later", [lambda writer: add(writer, [2, 3]), CheckpointWriter.write])
def test_an_error_in_the_background_is_raised_later_and_loses_no_row(later, tmp_path):
    go = Event()
    writer = open_writer(tmp_path, sequences=2, background=True, check=lambda: go.wait(20))
    with disk_of(64):
        add(writer, [0, 1])
        go.set()
        with pytest.raises(OSError, match="File too large"):
            later(writer)
        assert (writer.ids, writer.arrays, contents(tmp_path)) == ([], [], [])
    writer.close()
    assert contents(tmp_path) == [[0, 1] if later is CheckpointWriter.write else [0, 1, 2, 3]]


@pytest.mark.parametrize("background", [False, True])
def test_closing_writes_what_waits_and_ends_the_thread(background, tmp_path):
    before = set(threading.enumerate())
    writer = open_writer(tmp_path, sequences=2, background=background)
    for rows in ([0, 1], [2, 3], [4]):
        add(writer, rows)
        assert bool(set(threading.enumerate()) - before) == background
    writer.close()
    assert contents(tmp_path) == [[0, 1], [2, 3], [4]]
    assert set(threading.enumerate()) <= before


# With token rows: row n has n % 4 + 1 tokens, each with the values of the row and of its place.


def tokens_of(row: int, start: int = 0, stop: int | None = None) -> np.ndarray:
    tokens = np.arange(row % 4 + 1, dtype=np.float32)[start:stop]
    return row + tokens[:, None] * np.array([0, 1, 0, -1], np.float32)


def add_tokens(writer: CheckpointWriter, rows: list[int]) -> int:
    residues = [(row, tokens_of(row)) for row in rows]
    return writer.add(batch_rows(np.array(rows, np.int64), values_of(rows), residues))


def add_part(writer: CheckpointWriter, row: int, start: int, stop: int, whole: bool) -> int:
    """A part of a sequence that is read in several passes."""
    rows = [row] if whole else []
    given = (np.array(rows, np.int64), values_of(rows), [(row, tokens_of(row, start, stop))])
    return writer.add(batch_rows(*given))


def assert_tokens(folder: Path, *blocks: list[int]) -> None:
    """Each block has the token rows of its sequences, and nothing else lies there."""
    assert contents(folder) == list(blocks)
    names = []
    for path, rows in zip(list_blocks(folder), blocks, strict=True):
        residues = read_block(path).residues
        assert residues and residues.counts.tolist() == [row % 4 + 1 for row in rows]
        found = residues.rows(folder, 4)
        assert found.tolist() == [values.tolist() for row in rows for values in tokens_of(row)]
        names += [path.name, residues.name]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_a_block_has_the_token_rows_of_its_sequences(tmp_path):
    writer = open_writer(tmp_path, sequences=3, per_residue=True)
    assert [add_tokens(writer, rows) for rows in ([3, 0], [5, 7], [1])] == [2, 2, 1]
    writer.close()
    assert_tokens(tmp_path, [3, 0, 5, 7], [1])


def test_token_rows_are_written_at_once_in_the_background_too(tmp_path):
    options = {"sequences": 2, "background": True, "check": lambda: time.sleep(0.1)}
    writer = open_writer(tmp_path, per_residue=True, **options)
    add_tokens(writer, [0, 1])
    assert_tokens(tmp_path, [0, 1])


def test_a_sequence_in_many_passes_is_written_whole_and_never_in_part(tmp_path):
    clock = Clock()
    writer = open_writer(tmp_path, clock, sequences=2, seconds=10, per_residue=True)
    add_tokens(writer, [2])
    clock.now = 100.0
    assert [add_part(writer, 7, n, n + 1, n == 3) for n in range(4)] == [0, 0, 0, 1]
    assert_tokens(tmp_path, [2, 7])
    add_tokens(writer, [1])
    writer.close()
    assert_tokens(tmp_path, [2, 7], [1])


def test_nothing_is_written_between_the_parts_of_a_sequence(tmp_path):
    writer = open_writer(tmp_path, per_residue=True)
    add_tokens(writer, [2])
    add_part(writer, 7, 0, 2, False)
    writer.write()
    assert list_blocks(tmp_path) == []
    add_part(writer, 7, 2, 4, True)
    writer.write()
    assert_tokens(tmp_path, [2, 7])


def test_a_sequence_that_is_cut_off_is_left_out(tmp_path):
    writer = open_writer(tmp_path, per_residue=True)
    add_tokens(writer, [2, 3])
    add_part(writer, 7, 0, 2, False)
    writer.close()
    assert_tokens(tmp_path, [2, 3])
    again = open_writer(tmp_path, per_residue=True)
    add_part(again, 7, 0, 2, False)
    again.close()
    assert_tokens(tmp_path, [2, 3])


@pytest.mark.parametrize("add_rows", [add, add_tokens])
def test_a_block_that_could_not_be_written_is_tried_again(add_rows, tmp_path):
    writer = open_writer(tmp_path, sequences=1, per_residue=add_rows is add_tokens)
    # There is room for the token rows, and not for the block.
    with disk_of(64):
        for attempt in (lambda: add_rows(writer, [0, 1]), writer.close):
            with pytest.raises(OSError, match="File too large"):
                attempt()
            assert (writer.ids, writer.arrays) == ([], [])
    writer.close()
    assert contents(tmp_path) == [[0, 1]]
    if add_rows is add_tokens:
        assert_tokens(tmp_path, [0, 1])


def test_rows_of_a_failed_block_are_due_with_the_next_batch(tmp_path):
    writer = open_writer(tmp_path, sequences=2)
    with disk_of(64), pytest.raises(OSError, match="File too large"):
        add(writer, [0, 1])
    add(writer, [2])
    assert contents(tmp_path) == [[0, 1, 2]]


def test_a_full_disk_leaves_what_was_finished(tmp_path):
    writer = open_writer(tmp_path, sequences=2, per_residue=True)
    add_tokens(writer, [0, 1])
    before = sorted(tmp_path.iterdir())
    with disk_of(16):
        for attempt in (lambda: add_tokens(writer, [2, 3]), writer.close):
            with pytest.raises(OSError, match="File too large"):
                attempt()
    assert sorted(tmp_path.iterdir()) == before
    assert_tokens(tmp_path, [0, 1])


def test_a_block_whose_token_rows_are_damaged_is_embedded_again(tmp_path, caplog):
    writer = open_writer(tmp_path, sequences=2, per_residue=True)
    for rows in ([0, 1], [2, 3], [4, 5]):
        add_tokens(writer, rows)
    paths = list_blocks(tmp_path)
    flip(tmp_path / read_block(paths[1]).residues.name)
    assert_finished(tmp_path, [0, 1, 4, 5])
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{paths[1]}: damaged checkpoint file (its token rows")
    assert not paths[1].exists()
    again = open_writer(tmp_path, per_residue=True)
    add_tokens(again, [2, 3])
    again.close()
    assert_finished(tmp_path, [0, 1, 4, 5, 2, 3])
    assert contents(tmp_path) == [[0, 1], [4, 5], [2, 3]]


def test_other_folders_of_a_rank_are_named_and_left(tmp_path, caplog):
    mine = tmp_path / "recipe1-shard1"
    for folder in (mine / "shard_0", tmp_path / "recipe2-shard1/shard_0", tmp_path / "r-s/shard_1"):
        folder.mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        config = {"enable_checkpointing": True, "checkpoint_dir": mine}
        with open_checkpoint(config, tmp_path, 0, lambda: None, logging.getLogger()) as checkpoint:
            assert (checkpoint.folder, checkpoint.locked) == (mine / "shard_0", True)
    expected = (
        "other checkpoints of this rank: recipe2-shard1; clean.py lists those that no shard needs"
    )
    assert [record.message for record in caplog.records] == [expected]
    assert (tmp_path / "recipe2-shard1/shard_0").is_dir()


def test_more_blocks_than_files_may_be_open_are_read(tmp_path):
    for row in range(60):
        add_block(tmp_path, [row])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 20, hard))
    try:
        assert_finished(tmp_path, list(range(60)))
        assert count_duplicate_rows(tmp_path) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
