"""Blocks are joined into one when a worker reads them, and no row is lost or changed by that."""

from __future__ import annotations

import logging
import shutil
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_files import flip
from known_files import WIDTH, flags_of, rows_of, token_rows_of, write_known_file
from safetensors import safe_open

from seqembed.checkpoints.blocks import (
    list_blocks,
    read_block,
    write_joined_block,
    write_next_block,
)
from seqembed.checkpoints.checkpoint import join_files, read_finished
from seqembed.checkpoints.saved_rows import list_saved, read_all_saved
from seqembed.checkpoints.token_rows import ResidueSpool
from seqembed.errors import CheckpointError
from seqembed.results import reader

LOGGER = logging.getLogger("seqembed.tests")


def make_digests(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16), np.uint8)


def add_block(
    folder: Path, digests: np.ndarray, *, batches: int = 1, width: int = WIDTH, **options: Any
) -> Path:
    rows = rows_of(digests, options.pop("storage", "float32"), width)
    return write_next_block(folder, digests, rows, flags_of(digests), batches=batches, **options)


def add_token_block(folder: Path, digests: np.ndarray) -> Path:
    """A block whose sequences have 1 to 4 token rows."""
    spool = ResidueSpool(folder)
    for place, key in enumerate(digests):
        spool.add(place, token_rows_of(key, 1 + place % 4))
    return add_block(folder, digests, residues=spool.seal(range(len(digests))))


def add_shard(folder: Path, digests: np.ndarray, **options: Any) -> Path:
    lengths = 1 + np.arange(len(digests)) % 4
    return write_known_file(folder / "shard_0.h5", lengths, digests, kind="shard", **options)


def join(folder: Path, digests: np.ndarray, storage: str = "float32", parts: int = 3) -> Path:
    rows, dtype = rows_of(digests, storage), np.dtype(storage)
    pieces = np.array_split(rows, parts)
    return write_joined_block(folder, digests, flags_of(digests), pieces, rows.shape, dtype)


def read_joined(folder: Path, logger: logging.Logger) -> Any:
    """What a worker with the lock reads: files are joined before."""
    join_files(folder, logger)
    return read_finished(folder, logger)


def assert_block(path: Path, digests: np.ndarray, storage: str = "float32") -> None:
    block = read_block(path)
    assert block.rows.dtype == storage and block.residues is None
    np.testing.assert_array_equal(block.digests, digests)
    np.testing.assert_array_equal(block.rows, rows_of(digests, storage))
    np.testing.assert_array_equal(block.flags, flags_of(digests))


def assert_finished(folder: Path, digests: np.ndarray, left: Sequence[str]) -> None:
    """These rows are finished, in this order, and these files hold them, with their flags."""
    ids, rows = read_joined(folder, LOGGER)
    assert list(ids) == [key.tobytes().hex() for key in digests]
    np.testing.assert_array_equal(rows, rows_of(digests))
    assert [path.name for path in list_saved(folder)] == list(left)
    for saved in read_all_saved(folder):
        np.testing.assert_array_equal(saved.rows, rows_of(saved.digests))
        np.testing.assert_array_equal(saved.flags, flags_of(saved.digests))


def identify(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


# The block itself.


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_joined_block_reads_as_any_other(count, storage, tmp_path):
    digests = make_digests(count)
    path = join(tmp_path, digests, storage)
    assert path == tmp_path / "batch_00000.safetensors"
    assert list(tmp_path.iterdir()) == [path]
    assert_block(path, digests, storage)
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == {"digests", "flags", "rows"}
        assert {"first": "0", "last": "0"}.items() <= file.metadata().items()
        np.testing.assert_array_equal(file.get_tensor("rows"), rows_of(digests, storage))
        np.testing.assert_array_equal(file.get_tensor("digests"), digests)
        np.testing.assert_array_equal(file.get_tensor("flags"), flags_of(digests))
    # The rows begin at a multiple of 8 bytes, as NumPy and safetensors want them.
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_a_joined_block_comes_after_the_last_block(tmp_path):
    digests = make_digests(6)
    add_block(tmp_path, digests[:2], batches=5)
    add_block(tmp_path, digests[2:4], batches=3)
    path = join(tmp_path, digests)
    assert (path.name, read_block(path).first, read_block(path).last) == (
        "batch_00008.safetensors",
        8,
        8,
    )
    assert add_block(tmp_path, digests[4:]).name == "batch_00009.safetensors"


def damages(path: Path) -> dict[str, int]:
    """A place in each part of a block."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    rows = 7 * WIDTH * 4
    return {
        "length of the header": 0,
        "name": content.index(b"digests"),
        "dtype": content.index(b"F32") + 1,
        "shape": content.index(b'"shape":[7') + 9,
        "checksum": content.index(b'"checksum":"') + 14,
        "format": content.index(b"format_version") + 17,
        "last": content.index(b'"last":"') + 8,
        "padding": start - 1,
        "first row": start,
        "last row": start + rows - 1,
        "digest": start + rows,
        "flag": len(content) - 1,
    }


PARTS = ["length of the header", "name", "dtype", "shape", "checksum", "format", "last", "padding"]
PARTS += ["first row", "last row", "digest", "flag"]


@pytest.mark.parametrize("part", PARTS)
def test_a_flipped_bit_of_a_joined_block_is_found(part, tmp_path):
    path = join(tmp_path, make_digests(7))
    flip(path, damages(path)[part], bit=1)
    with pytest.raises(CheckpointError, match=f"^{path}: damaged checkpoint block"):
        read_block(path)


def test_a_joined_block_that_was_cut_is_found(tmp_path):
    path = join(tmp_path, make_digests(7))
    content = path.read_bytes()
    for size in (0, 7, 100, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=f"^{path}: damaged checkpoint block"):
            read_block(path)


def test_a_joined_block_that_fails_leaves_nothing(tmp_path):
    digests = make_digests(4)

    def fail() -> Any:
        yield rows_of(digests[:2])
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_joined_block(
            tmp_path, digests, flags_of(digests), fail(), (4, WIDTH), np.dtype("float32")
        )
    assert list(tmp_path.iterdir()) == []


def measure_memory(act: Callable[[], Any]) -> int:
    """The most bytes that Python and NumPy allocated during a call."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_rows_are_never_all_in_memory(tmp_path, monkeypatch):
    """A block of 8 MB is written of pieces of 0.2 MB; digests take some 100 bytes a sequence."""
    digests = make_digests(2000)
    parts = (np.full((50, 1000), n, np.float32) for n in range(40))
    shape, dtype = (2000, 1000), np.dtype("float32")
    write = partial(write_joined_block, tmp_path, digests, flags_of(digests), parts, shape, dtype)
    assert measure_memory(write) < 2_000_000
    monkeypatch.setattr(reader, "SLAB_ROWS", 50)
    add_block(tmp_path, make_digests(500, seed=2), width=1000)
    assert measure_memory(lambda: read_joined(tmp_path, LOGGER)) < 2_000_000
    (path,) = list_blocks(tmp_path)
    assert read_block(path).rows.shape == (2500, 1000)


# What a worker finds.


def test_a_worker_without_the_lock_reads_several_blocks_and_leaves_them(tmp_path):
    digests = make_digests(6)
    for places in ([3, 4, 5], [0, 1, 3], [2]):
        add_block(tmp_path, digests[places])
    before = {path: identify(path) for path in tmp_path.iterdir()}
    ids, rows = read_finished(tmp_path, LOGGER)
    order = digests[[3, 4, 5, 0, 1, 2]]
    assert list(ids) == [key.tobytes().hex() for key in order]
    np.testing.assert_array_equal(rows, rows_of(order))
    assert {path: identify(path) for path in tmp_path.iterdir()} == before


def test_several_blocks_become_one(tmp_path):
    digests = make_digests(9)
    for start, stop in ((4, 6), (0, 4), (6, 9)):
        add_block(tmp_path, digests[start:stop], batches=2)
    order = np.concatenate([digests[4:6], digests[:4], digests[6:]])
    assert_finished(tmp_path, order, ["batch_00006.safetensors"])
    assert_block(tmp_path / "batch_00006.safetensors", order)
    # What is one file stays as it is.
    before = identify(tmp_path / "batch_00006.safetensors")
    assert_finished(tmp_path, order, ["batch_00006.safetensors"])
    assert identify(tmp_path / "batch_00006.safetensors") == before
    add_block(tmp_path, make_digests(2, seed=2))
    more = np.concatenate([order, make_digests(2, seed=2)])
    assert_finished(tmp_path, more, ["batch_00008.safetensors"])


def test_of_rows_that_are_there_twice_one_is_kept(tmp_path):
    digests = make_digests(6)
    for places in ([0, 1, 2], [2, 3, 0], [1, 4, 5]):
        add_block(tmp_path, digests[places])
    assert_finished(tmp_path, digests, ["batch_00003.safetensors"])
    assert_block(tmp_path / "batch_00003.safetensors", digests)


@pytest.mark.parametrize("gone", [[], [0], [0, 1]])
def test_a_worker_killed_before_the_old_blocks_were_gone_costs_nothing(gone, tmp_path):
    digests = make_digests(9)
    for start in (0, 3, 6):
        add_block(tmp_path, digests[start : start + 3])
    shutil.copytree(tmp_path, tmp_path / "old")
    read_joined(tmp_path, LOGGER)
    old = list_blocks(tmp_path / "old")
    for number, path in enumerate(old):
        if number not in gone:
            shutil.copy(path, tmp_path)
    ids, rows = read_joined(tmp_path, LOGGER)
    assert sorted(ids) == sorted(key.tobytes().hex() for key in digests)
    np.testing.assert_array_equal(rows, rows_of(np.array([[*bytes.fromhex(i)] for i in ids])))
    # No row is there twice.
    (block,) = list_blocks(tmp_path)
    assert len(read_block(block).digests) == 9


def test_blocks_that_a_finished_shard_holds_are_removed(tmp_path):
    digests = make_digests(6)
    for part in (digests[3:], digests[:3]):
        add_block(tmp_path, part)
    shard = add_shard(tmp_path, digests)
    inode = shard.stat().st_ino
    assert_finished(tmp_path, digests, ["shard_0.h5"])
    assert shard.stat().st_ino == inode


def test_blocks_beside_a_finished_shard_are_joined_with_it(tmp_path):
    digests = make_digests(8)
    add_shard(tmp_path, digests[:4])
    for part in (digests[4:6], digests[2:4], digests[6:]):
        add_block(tmp_path, part)
    assert_finished(tmp_path, digests, ["batch_00003.safetensors"])
    assert_block(tmp_path / "batch_00003.safetensors", digests)


@pytest.mark.parametrize("blocks", [False, True])
def test_a_damaged_finished_shard_is_set_aside(blocks, tmp_path, caplog):
    digests = make_digests(4)
    shard = add_shard(tmp_path, digests)
    if blocks:
        add_block(tmp_path, digests[2:])
    flip(shard, 2000)
    if blocks:
        assert_finished(tmp_path, digests[2:], ["batch_00000.safetensors"])
    else:
        ids, rows = read_joined(tmp_path, LOGGER)
        assert (list(ids), rows, list_saved(tmp_path)) == ([], None, [])
    assert (tmp_path / "shard_0.h5.damaged").exists()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{shard}: damaged checkpoint file (")
    assert "set aside as shard_0.h5.damaged; its rows are recomputed" in record.getMessage()


@pytest.mark.parametrize("shard", [False, True])
def test_rows_with_token_rows_are_not_joined(shard, tmp_path):
    digests = make_digests(9)
    if shard:
        add_shard(tmp_path, digests[:3], tokens=True)
    else:
        add_token_block(tmp_path, digests[:3])
    for part in (digests[3:6], digests[6:]):
        add_token_block(tmp_path, part)
    before = {path: identify(path) for path in tmp_path.iterdir()}
    names = [path.name for path in list_saved(tmp_path)]
    assert len(names) == 3
    assert_finished(tmp_path, digests, names)
    assert isinstance(read_joined(tmp_path, LOGGER)[1], np.memmap)
    assert {path: identify(path) for path in tmp_path.iterdir()} == before
