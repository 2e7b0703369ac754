import h5py
import numpy as np
import pytest
import xxhash
from broken_files import flip

from seqembed.errors import ShardError
from seqembed.results.seal import USER_BLOCK_BYTES, read_seal, seal, verify_seal


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


def test_a_flipped_bit_and_a_file_cut_short_or_longer_are_seen(sealed):
    content = sealed.read_bytes()
    for position in range(0, len(content), 7):
        flip(sealed, position)
        with pytest.raises(ShardError, match=f"^{sealed}: "):
            verify_seal(sealed)
        flip(sealed, position)
    for damaged in [*(content[:keep] for keep in (0, 100, 512, 600, -1)), content + b"\0"]:
        sealed.write_bytes(damaged)
        with pytest.raises(ShardError, match=f"^{sealed}: "):
            verify_seal(sealed)


@pytest.mark.parametrize("line", [b"SEQEMBED1", b"SEQEMBED1 \n", b"SEQEMBED1 5 xxh3-128", b"\0"])
def test_a_line_cut_short_is_refused(line, sealed):
    content = sealed.read_bytes()
    sealed.write_bytes(line.ljust(USER_BLOCK_BYTES, b"\0") + content[USER_BLOCK_BYTES:])
    with pytest.raises(ShardError, match=f"^{sealed}: "):
        verify_seal(sealed)


def test_a_file_without_a_seal_or_with_another_checksum_is_not_damaged(sealed, tmp_path):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = 1
    sealed.write_bytes(sealed.read_bytes().replace(b" xxh3-128 ", b" blake2b-128 ", 1))
    for path, problem in ((other, "not a sealed"), (sealed, "another checksum than xxh3-128")):
        with pytest.raises(ShardError, match=f"^{path}: .*{problem}"):
            verify_seal(path)


def test_the_checksum_is_what_it_says(sealed):
    content = sealed.read_bytes()
    body = content[USER_BLOCK_BYTES:]
    words = content[:USER_BLOCK_BYTES].rstrip(b"\0").split()
    told = xxhash.xxh3_128(body).hexdigest()
    assert words == [b"SEQEMBED1", str(len(body)).encode(), b"xxh3-128", told.encode()]


def test_the_line_of_a_seal_tells_contents_apart(sealed, tmp_path):
    line, copy = read_seal(sealed), tmp_path / "copy.h5"
    assert line.encode() == sealed.read_bytes()[:USER_BLOCK_BYTES].rstrip(b"\n\0")
    copy.write_bytes(sealed.read_bytes())
    assert read_seal(copy) == line
    with h5py.File(copy, "r+") as file:
        file["embeddings"][2, 3] = 12
    seal(copy)
    assert read_seal(copy) != line


@pytest.mark.parametrize(
    "content", [b"", b"SEQEMBED1", b"SEQEMBED12 5 x", b"SEQEMBED1 \xe9\n", b"\0" * 512]
)
def test_the_line_of_what_is_not_sealed_is_refused(content, tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=f"^{path}: is not a sealed seqembed file"):
        read_seal(path)


def test_a_seal_that_cannot_be_read_is_an_error_of_the_system(tmp_path):
    for path, error in ((tmp_path, IsADirectoryError), (tmp_path / "none", FileNotFoundError)):
        with pytest.raises(error):
            read_seal(path)
