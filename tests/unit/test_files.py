"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os

import pytest

from seqembed.errors import FileFormatError
from seqembed.files import link, publish_exclusively, published, set_aside


def _refuse_links(monkeypatch, number):
    def refuse(source, target):
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "link", refuse)


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


def test_an_error_of_the_disk_names_the_file(tmp_path):
    path = tmp_path / "result.bin"
    for named in ((), ("temporary",)):
        with pytest.raises(OSError, match="result.bin'$") as caught, published(path) as temporary:
            raise OSError(errno.EIO, "Input/output error", *(str(temporary) for _ in named))
        assert caught.value.filename == str(path)


def test_an_error_of_another_file_is_left_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), published(tmp_path / "result.bin"):
        (tmp_path / "other").read_bytes()


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    path = tmp_path / "result.bin"
    with published(path) as first, published(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [None, errno.EPERM, errno.EXDEV])
def test_an_exclusive_file_is_written_once(tmp_path, monkeypatch, number):
    if number:
        _refuse_links(monkeypatch, number)
    path = tmp_path / "new" / "block.bin"
    with publish_exclusively(path) as temporary:
        temporary.write_bytes(b"first")
        assert not path.exists()
    with pytest.raises(FileExistsError), publish_exclusively(path) as temporary:
        temporary.write_bytes(b"second")
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("number", [None, errno.EPERM])
def test_an_exclusive_file_appears_in_no_part(tmp_path, monkeypatch, number):
    if number:
        _refuse_links(monkeypatch, number)
    with (
        pytest.raises(OSError, match="disk full"),
        publish_exclusively(tmp_path / "block.bin") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_not_taken_for_missing_hard_links(tmp_path, monkeypatch):
    _refuse_links(monkeypatch, errno.ENOSPC)
    source = tmp_path / "source.bin"
    source.write_bytes(b"content")
    with pytest.raises(OSError) as caught:
        link(source, tmp_path / "target.bin")
    assert caught.value.errno == errno.ENOSPC
    with (
        pytest.raises(OSError) as caught,
        publish_exclusively(tmp_path / "block.bin") as temporary,
    ):
        temporary.write_bytes(b"content")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == [source]


def test_a_link_shares_the_file_and_replaces_what_stood_there(tmp_path):
    source, target = tmp_path / "source.bin", tmp_path / "new" / "target.bin"
    source.write_bytes(b"content")
    for _ in range(2):  # The second time both names are the same file already.
        link(source, target)
        assert os.path.samefile(source, target)
        assert list(target.parent.iterdir()) == [target]
    target.unlink()
    target.write_bytes(b"earlier")
    link(source, target)
    assert os.path.samefile(source, target)
    assert source.read_bytes() == b"content"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK])
def test_without_hard_links_a_link_is_a_copy(tmp_path, monkeypatch, number):
    source, target = tmp_path / "source.bin", tmp_path / "target.bin"
    source.write_bytes(b"content")
    target.write_bytes(b"earlier")
    _refuse_links(monkeypatch, number)
    link(source, target)
    assert target.read_bytes() == b"content"
    assert not os.path.samefile(source, target)
    assert sorted(tmp_path.iterdir()) == [source, target]


def test_a_link_to_nothing_leaves_the_target_alone(tmp_path):
    target = tmp_path / "target.bin"
    target.write_bytes(b"earlier")
    with pytest.raises(FileNotFoundError):
        link(tmp_path / "none.bin", target)
    assert target.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("way", ["published", "link"])
def test_a_folder_in_the_way_is_told(way, tmp_path):
    path, source = tmp_path / "result.bin", tmp_path / "source"
    path.mkdir()
    source.write_bytes(b"x")
    with pytest.raises(FileFormatError, match=f"^{path}: a folder stands .* remove {path} and"):
        if way == "link":
            link(source, path)
        else:
            with published(path) as temporary:
                temporary.write_bytes(b"x")
    assert sorted(tmp_path.iterdir()) == [path, source]


def test_what_is_set_aside_hides_nothing_set_aside_before(tmp_path):
    names = []
    for content in ("a", "b", "c"):
        path = tmp_path / "x.safetensors"
        path.write_text(content)
        names.append(set_aside(path).name)
        assert not path.exists()
    assert names == [f"x.safetensors.damaged{number}" for number in ("", 1, 2)]
    assert [(tmp_path / name).read_text() for name in names] == ["a", "b", "c"]
