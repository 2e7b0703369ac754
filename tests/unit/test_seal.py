import h5py
import numpy as np
import pytest

from seqembed.errors import ShardError
from seqembed.seal import USER_BLOCK_BYTES, seal, verify_seal


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "shard_0.h5"
    with h5py.File(path, "w", userblock_size=USER_BLOCK_BYTES) as file:
        file["embeddings"] = np.arange(12, dtype=np.float32).reshape(3, 4)
    seal(path)
    return path


def test_plain_h5py_reads_a_sealed_file(sealed):
    verify_seal(sealed)
    with h5py.File(sealed, "r", locking=False) as file:
        assert file["embeddings"][:].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_flipped_bit_anywhere_is_seen(sealed):
    content = sealed.read_bytes()
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 1
        sealed.write_bytes(damaged)
        with pytest.raises(ShardError, match="make it again|damaged"):
            verify_seal(sealed)


@pytest.mark.parametrize("keep", [0, 100, 512, 600, -1])
def test_a_file_cut_short_is_seen(sealed, keep):
    sealed.write_bytes(sealed.read_bytes()[:keep])
    with pytest.raises(ShardError):
        verify_seal(sealed)


def test_a_longer_file_is_seen(sealed):
    with sealed.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ShardError, match="damaged"):
        verify_seal(sealed)


def test_an_unsealed_file_is_refused(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(ShardError, match="no sealed"):
        verify_seal(path)
