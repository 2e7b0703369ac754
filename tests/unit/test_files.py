import pytest

from seqembed.files import published


def test_the_final_name_appears_complete(tmp_path):
    path = tmp_path / "new" / "result.bin"
    with published(path) as temporary:
        temporary.write_bytes(b"all of it")
        assert not path.exists()
    assert path.read_bytes() == b"all of it"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_earlier_file_and_no_litter(tmp_path):
    path = tmp_path / "result.bin"
    path.write_bytes(b"earlier")
    with pytest.raises(OSError, match="disk full"), published(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError("disk full")
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]
