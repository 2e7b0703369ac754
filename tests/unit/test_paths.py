"""Paths as users write them: `~`, variables, and what is not a path."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seqembed.errors import FastaError
from seqembed.fasta.files import find_fasta_files
from seqembed.storage.paths import expand


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A home with one file, and a working folder beside it."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "a.faa").write_text(">a\nMKV\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("DATA", str(folder))
    monkeypatch.delenv("NOT_SET", raising=False)
    return folder


@pytest.mark.parametrize("text", ["~/a.faa", "$HOME/a.faa", "${DATA}/a.faa", "$DATA/*.faa"])
def test_home_and_variables_are_filled_in(text, home):
    assert find_fasta_files(text) == [home / "a.faa"]


@pytest.mark.parametrize("text", ["a.faa", "$NOT_SET/a.faa", "a~.faa", "$", "${", "*.faa"])
def test_all_else_stays_as_it_is_written(text):
    assert expand(text) == text


@pytest.mark.parametrize("text", ["$DATA", "~", "a,b.faa", "$NOT_SET", "a b.faa"])
def test_a_file_of_the_literal_name_wins(text):
    Path(text).write_text(">a\nMKV\n")
    assert expand(text) == text
    assert find_fasta_files(text) == [Path(text)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-", "-: is standard input"),
        ("/dev/stdin", "/dev/stdin: is standard input"),
        ("https://x.org/a.faa", "https://x.org/a.faa: is an address"),
        ("s3://bucket/a.faa", "s3://bucket/a.faa: is an address"),
        ("$NOT_SET/a.faa", "$NOT_SET/a.faa: the variable $NOT_SET is not set"),
        ("a.faa,b.faa", "`fasta: [a.faa, b.faa]`, or after --config as fasta=a.faa,b.faa"),
        ("~/a.faa ~/*.faa", "`fasta: [~/a.faa, ~/*.faa]`"),
        ("no file.faa", "no file.faa: matches no file"),
        (".", ".: is a folder"),
    ],
)
def test_for_what_is_not_a_path_the_message_says_what_to_write(text, message):
    with pytest.raises(FastaError, match=re.escape(message)):
        find_fasta_files([text])
