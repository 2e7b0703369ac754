"""Token rows beside a checkpoint block: of whole sequences alone, on disk, checked to the byte."""

from __future__ import annotations

import hashlib
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from broken_files import flip

from seqembed.checkpoints.blocks import Block, read_block, write_block
from seqembed.checkpoints.token_rows import ResidueFile, ResidueSpool
from seqembed.errors import CheckpointError

WIDTH = 3


def rows_of(position: int, count: int, dtype: str = "float32") -> np.ndarray:
    """The token rows of the tests' sequence: its number, and the number of the token."""
    rows = np.full((count, WIDTH), position, dtype)
    rows[:, 1] = np.arange(count)
    return rows


def seal(folder: Path, *counts: int, dtype: str = "float32") -> ResidueFile:
    """Seal the rows of sequences 0, 1, ...; counts: how many tokens each has."""
    spool = ResidueSpool(folder)
    for position, count in enumerate(counts):
        spool.add(position, rows_of(position, count, dtype))
    sealed = spool.seal(range(len(counts)))
    spool.discard()
    return sealed


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sealed_rows_come_back_from_disk(dtype, tmp_path):
    spool, wide = ResidueSpool(tmp_path), np.zeros((9, WIDTH + 2), dtype)
    wide[:, 1:-1] = rows_of(5, 9, dtype)
    # A sequence may come in parts, and these from within a larger array.
    for part in (wide[:4, 1:-1], wide[4:5, 1:-1], wide[5:, 1:-1]):
        spool.add(5, part)
    spool.add(2, rows_of(2, 1, dtype))
    sealed = spool.seal([5, 2])
    assert (sealed.counts.tolist(), sealed.dtype) == ([9, 1], dtype)
    sealed.check(tmp_path)
    rows = sealed.rows(tmp_path, WIDTH)
    assert isinstance(rows, np.memmap) and rows.dtype == dtype
    expected = np.concatenate([rows_of(5, 9, dtype), rows_of(2, 1, dtype)])
    np.testing.assert_array_equal(rows, expected)
    (path,) = tmp_path.iterdir()
    assert path.name == sealed.name and re.fullmatch(r"residues_[0-9a-f]{32}\.raw", path.name)
    assert path.read_bytes() == expected.tobytes()
    assert sealed.checksum == hashlib.blake2b(expected.tobytes(), digest_size=16).hexdigest()


@pytest.mark.parametrize("whole", [[7, 8], []])
def test_no_row_of_a_sequence_that_is_cut_off_is_sealed(whole, tmp_path):
    spool, counts = ResidueSpool(tmp_path), {7: 3, 8: 2}
    for position in whole:
        spool.add(position, rows_of(position, counts[position]))
    for _ in range(2):
        spool.add(9, rows_of(9, 4))
    sealed = spool.seal(whole)
    spool.discard()
    assert sealed.counts.tolist() == [counts[position] for position in whole]
    sealed.check(tmp_path)
    expected = [np.empty((0, WIDTH), np.float32), *(rows_of(p, counts[p]) for p in whole)]
    np.testing.assert_array_equal(sealed.rows(tmp_path, WIDTH), np.concatenate(expected))
    assert (tmp_path / sealed.name).read_bytes() == np.concatenate(expected).tobytes()
    assert [path.name for path in tmp_path.iterdir()] == [sealed.name]


def test_a_spool_without_rows_touches_nothing_and_what_is_not_sealed_goes(tmp_path):
    spool = ResidueSpool(tmp_path / "none")
    spool.discard()
    assert list(tmp_path.iterdir()) == []
    spool.add(0, rows_of(0, 2))
    (path,) = (tmp_path / "none").iterdir()
    assert path.name.startswith(".residues_") and path.name.endswith(".tmp")
    spool.discard()
    spool.discard()
    assert list((tmp_path / "none").iterdir()) == []


def test_rows_are_durable_before_they_have_their_name(tmp_path, durable):
    path = tmp_path / seal(tmp_path, 2).name
    assert durable == [path.stat().st_ino, path.name, tmp_path.stat().st_ino]


def write(folder: Path, residues: ResidueFile | None, first: int = 0) -> Path:
    count = 2 if residues is None else len(residues.counts)
    block = Block(
        first=first,
        last=first,
        digests=np.full((count, 16), first, np.uint8),
        rows=np.zeros((count, WIDTH), np.float32),
        flags=np.zeros(count, np.uint8),
        residues=residues,
    )
    return write_block(folder, block)


def test_a_block_knows_its_token_rows(tmp_path):
    sealed = seal(tmp_path, 2, 5)
    paths = [write(tmp_path, None, 0), write(tmp_path, sealed, 1)]
    assert read_block(paths[0]).residues is None
    found = read_block(paths[1]).residues
    assert found and (found.name, found.checksum) == (sealed.name, sealed.checksum)
    assert (found.dtype, found.counts.tolist()) == ("float32", [2, 5])
    assert found.counts.dtype == np.int64
    np.testing.assert_array_equal(found.rows(tmp_path, WIDTH), sealed.rows(tmp_path, WIDTH))


def test_every_damaged_byte_and_missing_rows_are_seen(tmp_path):
    sealed = seal(tmp_path, 1, 2)
    block, path = write(tmp_path, sealed), tmp_path / sealed.name
    content = path.read_bytes()
    for position in range(len(content)):
        flip(path, position)
        with pytest.raises(CheckpointError, match=f"{block}: .*{sealed.name}, are damaged"):
            read_block(block)
        flip(path, position)
    for other in (b"", content[:-1], content + b"\0"):
        path.write_bytes(other)
        with pytest.raises(CheckpointError, match="are damaged.*are embedded again"):
            read_block(block)
    path.write_bytes(content)
    read_block(block)
    path.unlink()
    for make in (lambda: None, path.mkdir):
        make()
        with pytest.raises(CheckpointError, match=f"^{block}: .*'{sealed.name}', are missing"):
            read_block(block)


@pytest.mark.parametrize("name", ["sub/{}", "../{}", "{parent}/{}", "", ".", "..", "sub/../{}"])
def test_a_name_that_leads_elsewhere_is_refused(name, tmp_path):
    folder = tmp_path / "shard_0"
    sealed = seal(folder, 1)
    (folder / "sub").mkdir()
    # The same bytes stand wherever the name leads.
    for place in (folder / "sub", tmp_path):
        (place / sealed.name).write_bytes((folder / sealed.name).read_bytes())
    name = name.format(sealed.name, parent=tmp_path)
    block = write(folder, replace(sealed, name=name))
    with pytest.raises(CheckpointError, match="token rows, .*, are missing"):
        read_block(block)


def test_memory_does_not_grow_with_the_rows(tmp_path):
    spool = ResidueSpool(tmp_path)
    tracemalloc.start()
    try:
        for number in range(32):
            spool.add(number // 4, np.zeros((2048, 256), np.float32))
        sealed = spool.seal(range(8))
        sealed.check(tmp_path)
        assert len(sealed.rows(tmp_path, 256)) == 32 * 2048
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / sealed.name).stat().st_size == 64 << 20
    assert peak < 8 << 20
