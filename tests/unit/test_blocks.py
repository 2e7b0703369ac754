"""Checkpoint blocks: written whole, numbered apart, checked down to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqembed.checkpoints.blocks import (
    Block,
    list_blocks,
    read_block,
    write_block,
    write_next_block,
)
from seqembed.checkpoints.token_rows import ResidueFile
from seqembed.errors import CheckpointError


def block_of(count: int, width: int = 8, dtype: str = "float32", **changes: Any) -> Block:
    random = np.random.default_rng(count)
    given: dict[str, Any] = {
        "first": 3,
        "last": 5,
        "digests": random.integers(0, 256, (count, 16), dtype=np.uint8),
        "rows": random.standard_normal((count, width)).astype(dtype),
        "flags": random.integers(0, 3, count, dtype=np.uint8),
    }
    return Block(**given | changes)


@pytest.mark.parametrize(("count", "dtype"), [(0, "float32"), (1, "float16"), (100, "float32")])
def test_a_block_comes_back_as_written_its_rows_mapped_from_disk(count, dtype, tmp_path):
    block = block_of(count, dtype=dtype)
    path = write_block(tmp_path, block)
    assert path.name == "batch_00003.safetensors"
    read = read_block(path)
    assert (read.first, read.last, read.residues) == (3, 5, None)
    for name in ("digests", "rows", "flags"):
        np.testing.assert_array_equal(getattr(read, name), getattr(block, name))
    assert (read.rows.dtype, read.rows.shape) == (dtype, (count, 8))
    assert isinstance(read.rows, np.memmap) or not count
    assert list(tmp_path.iterdir()) == [path]


def test_every_flipped_byte_and_a_block_cut_short_are_seen(tmp_path):
    path = write_block(tmp_path, block_of(2, width=2))
    content = path.read_bytes()
    flipped = (
        content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        for place in range(len(content))
    )
    for damaged in (*flipped, *(content[:keep] for keep in (0, 1, 7, 8, 100, -1))):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"^{path}: .*are embedded again"):
            read_block(path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rows": np.zeros((3, 4), np.float32)}, "2 digests"),
        ({"flags": np.zeros(3, np.uint8)}, "2 digests"),
        ({"residues": ResidueFile("x", "", "float32", np.zeros(1, np.int64))}, "2 digests"),
        ({"digests": np.zeros((2, 15), np.uint8)}, "digests are"),
        ({"rows": np.zeros((2, 4))}, "float64"),
        ({"first": -1, "last": 0}, "-1 to 0"),
        ({"first": 3, "last": 2}, "3 to 2"),
    ],
)
def test_a_block_checks_itself(changes, problem):
    with pytest.raises(CheckpointError, match=problem):
        block_of(2, **changes)


def test_a_block_is_never_written_over(tmp_path):
    path = write_block(tmp_path, block_of(2))
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        write_block(tmp_path, block_of(3))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def write_next(folder: Path, count: int, batches: int) -> Path:
    block = block_of(count)
    return write_next_block(folder, block.digests, block.rows, block.flags, batches=batches)


def test_numbers_go_on_after_the_last_block(tmp_path):
    folder = tmp_path / "new"
    names = [write_next(folder, 2, batches).name for batches in (3, 1, 100_000, 1)]
    assert names == [f"batch_{n}.safetensors" for n in ("00000", "00003", "00004", "100004")]
    assert [p.name for p in list_blocks(folder)] == names
    assert (read_block(folder / names[2]).first, read_block(folder / names[2]).last) == (4, 100_003)


def test_a_number_that_another_worker_took_is_passed_over(tmp_path, monkeypatch):
    # As if the other one had written after this one looked.
    monkeypatch.setattr("seqembed.checkpoints.blocks._next_number", lambda folder: 0)
    first, second = write_next(tmp_path, 2, 5), write_next(tmp_path, 3, 5)
    assert second.name == "batch_00001.safetensors"
    assert (len(read_block(first).rows), len(read_block(second).rows)) == (2, 3)


def write_at_once(barrier: Any, folder: Path) -> None:
    """Runs in a process of its own."""
    barrier.wait()
    for count in range(1, 6):
        write_next(folder, count, 1)


def test_two_writers_at_once_lose_no_block(context, tmp_path):
    barrier = context.Barrier(2)
    writers = [context.Process(target=write_at_once, args=(barrier, tmp_path)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    counts = sorted(len(read_block(path).rows) for path in list_blocks(tmp_path))
    assert counts == sorted([*range(1, 6)] * 2)


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\xff" * 8, b"\xff" * 7 + b"\x3f{}", b"\x02" + bytes(7) + b"{}"]
)
def test_a_damaged_last_block_does_not_stop_the_next_one(content, tmp_path):
    write_next(tmp_path, 2, 3).write_bytes(content)
    assert write_next(tmp_path, 2, 3).name == "batch_00001.safetensors"


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "folder").touch()
    with pytest.raises(FileExistsError):
        write_next(tmp_path / "folder", 2, 3)


def test_only_blocks_are_listed(tmp_path):
    names = ["batch_00010", "batch_100000", "batch_99999"]
    for name in names:
        (tmp_path / f"{name}.safetensors").touch()
    for name in [
        "manifest.json",
        "batch_00002.safetensors.damaged",
        ".batch_00003.safetensors.0f.tmp",
        "batch_3.safetensors",
        "batch_0000x.safetensors",
    ]:
        (tmp_path / name).touch()
    expected = [f"{name}.safetensors" for name in ("batch_00010", "batch_99999", "batch_100000")]
    assert [path.name for path in list_blocks(tmp_path)] == expected
    assert list_blocks(tmp_path / "none") == []
