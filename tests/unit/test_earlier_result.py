"""Results of other files are not replaced; whoever runs the same again goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from indexing import index_proteins

from seqembed.errors import ConfigError
from seqembed.run_messages import refuse_to_replace

INDEX = Path("results/my/index.parquet")


@pytest.fixture(autouse=True)
def made(tmp_path, monkeypatch) -> None:
    """An index of my.faa and b.faa."""
    monkeypatch.chdir(tmp_path)
    for name in ("my.faa", "b.faa", "other/my.faa"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(f">{name}\nMKV\n")
    INDEX.parent.mkdir(parents=True)
    index_proteins(["my.faa", "b.faa"], INDEX)


@pytest.mark.parametrize(
    "files", [["my.faa", "b.faa"], ["./my.faa"], ["b.faa", "my.faa", "c.faa"], ["link.faa"]]
)
def test_the_same_files_pass_also_where_some_came_or_went(files):
    Path("link.faa").symlink_to("my.faa")
    refuse_to_replace(files, files, INDEX)
    absolute = [str(Path(file).absolute()) for file in files]
    refuse_to_replace(absolute, absolute, INDEX)


def test_a_moved_checkout_passes(tmp_path, monkeypatch):
    moved = tmp_path.with_name(f"{tmp_path.name}_moved")
    tmp_path.rename(moved)
    monkeypatch.chdir(moved)
    refuse_to_replace(["my.faa"], ["my.faa"], INDEX)


def test_another_file_of_the_same_name_is_refused():
    message = "results/my holds the results of my.faa and 1 more, .*name=.*remove .*index.parquet"
    with pytest.raises(ConfigError, match=message):
        refuse_to_replace(["other/my.faa"], ["other/my.faa"], INDEX)


def test_a_pattern_whose_files_were_all_replaced_passes():
    for name in ("my.faa", "b.faa"):
        Path(name).unlink()
    refuse_to_replace(["*.faa"], ["new.faa"], INDEX)
    with pytest.raises(ConfigError):
        refuse_to_replace(["other/*.faa"], ["other/my.faa"], INDEX)


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no more"])
def test_a_missing_or_damaged_index_is_passed_over(content):
    INDEX.unlink()
    if content is not None:
        INDEX.write_bytes(content)
    refuse_to_replace(["other/my.faa"], ["other/my.faa"], INDEX)
