import numpy as np
import pytest

from seqembed.blocks import Block, read_block, write_block
from seqembed.errors import CheckpointError


def block_of(count: int, width: int = 8, first: int = 3, last: int = 5) -> Block:
    random = np.random.default_rng(count)
    return Block(
        first=first,
        last=last,
        digests=random.integers(0, 256, (count, 16), dtype=np.uint8),
        rows=random.standard_normal((count, width)).astype(np.float32),
        flags=random.integers(0, 3, count, dtype=np.uint8),
    )


@pytest.mark.parametrize("count", [0, 1, 100])
def test_a_block_comes_back_as_written(tmp_path, count):
    block = block_of(count)
    path = write_block(tmp_path, block)
    assert path.name == "batch_00003.safetensors"
    read = read_block(path)
    assert (read.first, read.last) == (3, 5)
    for name in ("digests", "rows", "flags"):
        np.testing.assert_array_equal(getattr(read, name), getattr(block, name))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_every_flipped_byte_is_seen(tmp_path):
    path = write_block(tmp_path, block_of(2, width=2))
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged checkpoint block"):
            read_block(path)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, -1])
def test_a_block_cut_short_is_seen(tmp_path, keep):
    path = write_block(tmp_path, block_of(4))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="will be embedded again"):
        read_block(path)


def test_rows_without_digests_are_refused():
    with pytest.raises(CheckpointError, match="2 digests"):
        Block(
            first=0,
            last=0,
            digests=np.zeros((2, 16), np.uint8),
            rows=np.zeros((3, 4), np.float32),
            flags=np.zeros(2, np.uint8),
        )
