"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from known_files import write_indices, write_known_file

from seqembed.checkpoints.blocks import write_next_block
from seqembed.checkpoints.manifest_and_failures import (
    CheckpointManifest,
    Failures,
    write_failures,
    write_manifest,
)
from seqembed.errors import FileFormatError
from seqembed.results.quarantine import write_quarantine
from seqembed.storage.publish import link, published, set_aside


@pytest.fixture
def number(request, monkeypatch) -> int | None:
    """The error of a file system that refuses hard links; None: it makes them."""
    found: int | None = request.param

    def refuse(source: Path, target: Path) -> None:
        raise OSError(found, os.strerror(found or 0), str(source), None, str(target))

    if found:
        monkeypatch.setattr(os, "link", refuse)
    return found


NO_LINKS = [None, errno.EPERM, errno.EXDEV]
# Each way to give a file its name.
WAYS = [(False, None), *((True, number) for number in NO_LINKS)]


@pytest.mark.parametrize(("exclusive", "number"), WAYS, indirect=["number"])
def test_the_final_name_appears_complete_and_durable(exclusive, number, tmp_path, durable):
    path = tmp_path / "new" / "result.bin"
    with published(path, exclusive=exclusive) as temporary:
        temporary.write_bytes(b"all of it")
        assert not path.exists() and durable == []
    assert path.read_bytes() == b"all of it"
    assert durable == [path.stat().st_ino, path.name, path.parent.stat().st_ino]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("exclusive", "number"), WAYS, indirect=["number"])
def test_a_failure_leaves_the_earlier_file_and_an_exclusive_one_is_written_once(
    exclusive, number, tmp_path
):
    path = tmp_path / "result.bin"
    path.write_bytes(b"earlier")
    with pytest.raises(OSError, match="disk full"), published(path, exclusive=exclusive) as new:
        new.write_bytes(b"half")
        raise OSError("disk full")
    if exclusive:
        with pytest.raises(FileExistsError), published(path, exclusive=True) as new:
            new.write_bytes(b"second")
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_disk_names_the_file(tmp_path):
    path = tmp_path / "result.bin"
    for named in (False, True):
        with pytest.raises(OSError, match="result.bin'$"), published(path) as temporary:
            raise OSError(errno.EIO, "Input/output error", *([str(temporary)] if named else []))
    # An error of another file is left as it is.
    with pytest.raises(FileNotFoundError, match="other'$"), published(path):
        (tmp_path / "other").read_bytes()


def _write_manifest(folder: Path) -> None:
    names = ("recipe_fingerprint", "shard_fingerprint", "model", "weights_sha256")
    numbers = dict.fromkeys(("rank", "world_size", "token_budget", "width"), 1)
    write_manifest(folder, CheckpointManifest(**dict.fromkeys(names, "x"), **numbers, recipe={}))


def _write_block(folder: Path) -> None:
    digests, flags = np.zeros((1, 16), np.uint8), np.zeros(1, np.uint8)
    write_next_block(folder, digests, np.zeros((1, 4), np.float32), flags, batches=1)


def _write_shards(folder: Path) -> None:
    write_indices(folder, ["MKV"], shards=1)


def _write_quarantine(folder: Path) -> None:
    write_quarantine(write_indices(folder, ["MKV"]), folder / "quarantine.tsv", {})


def _write_embeddings(folder: Path) -> None:
    write_known_file(folder / "shard_0.h5", np.empty(0, np.int64), np.empty((0, 16), np.uint8))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (_write_manifest, "manifest.json"),
        (lambda folder: write_failures(folder, Failures()), "failures.json"),
        (_write_block, "batch_00000.safetensors"),
        (lambda folder: write_indices(folder, ["MKV"]), "index.parquet"),
        (_write_shards, "index/shard_0.parquet"),
        (_write_shards, "index/reuse.json"),
        (_write_quarantine, "quarantine.tsv"),
        (_write_embeddings, "shard_0.h5"),
    ],
)
def test_whatever_we_write_is_durable_before_its_name(
    write: Callable[[Path], None], name, tmp_path, durable
):
    write(tmp_path / "new")
    path = tmp_path / "new" / name
    end = durable.index(path.name) + 2
    assert durable[end - 3 : end] == [path.stat().st_ino, path.name, path.parent.stat().st_ino]


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    path = tmp_path / "result.bin"
    with published(path) as first, published(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC], indirect=True)
def test_a_full_disk_is_not_taken_for_missing_hard_links(number, tmp_path):
    source = tmp_path / "source.bin"
    source.write_bytes(b"content")
    with pytest.raises(OSError, match="No space"):
        link(source, tmp_path / "target.bin")
    with pytest.raises(OSError, match="No space"), published(source, exclusive=True) as temporary:
        temporary.write_bytes(b"content")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    "number", [*NO_LINKS, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS], indirect=True
)
def test_a_link_or_a_durable_copy_replaces_what_stood_there(number, tmp_path, durable):
    source, target = tmp_path / "source.bin", tmp_path / "new" / "target.bin"
    source.write_bytes(b"content")
    target.parent.mkdir()
    target.write_bytes(b"earlier")
    for _ in range(2):  # The second time both names are the same file already.
        durable.clear()
        link(source, target)
        assert os.path.samefile(source, target) == (not number)
        assert durable[-2:] == [target.name, target.parent.stat().st_ino]
        assert (durable[0] == target.stat().st_ino) == bool(number)
    assert source.read_bytes() == target.read_bytes() == b"content"
    assert list(target.parent.iterdir()) == [target]


def test_a_link_to_nothing_leaves_the_target_alone_and_a_folder_in_the_way_is_named(tmp_path):
    path, source = tmp_path / "result.bin", tmp_path / "source"
    path.mkdir()
    source.write_bytes(b"x")
    refusal = f"^{path}: is a folder, but a file belongs there; remove it and run again"
    with pytest.raises(FileFormatError, match=refusal), published(path) as temporary:
        temporary.write_bytes(b"x")
    with pytest.raises(FileFormatError, match=refusal):
        link(source, path)
    with pytest.raises(FileNotFoundError):
        link(tmp_path / "none.bin", source)
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
