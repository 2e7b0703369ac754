"""Paths as users write them: `~`, variables, and what is no path."""

from __future__ import annotations

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


STDIN = "is standard input, and sequences are read twice; write them to a file and name that"
ADDRESS = "is an address, and nothing is downloaded from it; download the file and name that"
SEVERAL = "is no file; if these are several, write them as a list, `fasta: [{}]`, or after --config"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-", f"-: {STDIN}"),
        ("/dev/stdin", f"/dev/stdin: {STDIN}"),
        ("https://x.org/a.faa", f"https://x.org/a.faa: {ADDRESS}"),
        ("s3://bucket/a.faa", f"s3://bucket/a.faa: {ADDRESS}"),
        ("ftp://x.org/a.faa", f"ftp://x.org/a.faa: {ADDRESS}"),
        (
            "$NOT_SET/a.faa",
            "$NOT_SET/a.faa: the variable $NOT_SET is not set; set and export it, or write the "
            "path out",
        ),
        ("a.faa,b.faa", f"a.faa,b.faa: {SEVERAL.format('a.faa, b.faa')} as fasta=a.faa,b.faa"),
        ("~/a.faa ~/*.faa", f"~/a.faa ~/*.faa: {SEVERAL.format('~/a.faa, ~/*.faa')} as fasta="),
        ("no file.faa", "no file.faa: matches no file; correct the path or the pattern"),
        (".", ".: is a folder; name its files, such as ./*.fasta"),
    ],
)
def test_what_is_no_path_is_told_what_to_write(text, message):
    with pytest.raises(FastaError) as caught:
        find_fasta_files([text])
    assert str(caught.value).startswith(message)
