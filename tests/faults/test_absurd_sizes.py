"""Inputs of extreme sizes and kinds: the programs succeed, or end with one clear line.

Their peak resident memory is measured; Python with its libraries takes some 100 MB of it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seqembed.index.reader import read_excluded, read_ids_and_reasons, read_shard_index
from seqembed.settings.schema import complete

TESTS = Path(__file__).parents[1]
SCRIPTS = TESTS.parent / "workflow/scripts"
MODEL = TESTS / "golden/model.json"
MEGABYTE = 1 << 20
# No machine is so busy that what takes seconds takes this long.
HANGING_SECONDS = 240
# linux/prctl.h and linux/capability.h: root may read any file by these two.
PR_CAPBSET_DROP, CAPABILITIES = 24, (1, 2)


@dataclass(frozen=True)
class Outcome:
    """How a program ended: what it said, and the most memory it had, in bytes."""

    code: int
    said: str
    memory: int


# Runs a program and writes down its memory. A child's begins with what its parent held as it was
# made: the parent is a small one here, and not the process of the tests.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def call(
    folder: Path, entry: str, *words: str, before: Callable[[], None] | None = None
) -> Outcome:
    """Run an entry in a folder; `before` runs in its process first."""
    program = [sys.executable, str(SCRIPTS / f"{entry}.py"), *words, "--model", str(MODEL)]
    command = [sys.executable, "-c", MEASURE, str(folder / "memory"), *program]
    with (folder / "said").open("w+b") as said:
        streams = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said}
        process = subprocess.Popen(command, cwd=folder, preexec_fn=before, **streams)
        try:
            process.wait(HANGING_SECONDS)
        finally:
            process.kill()
        said.seek(0)
        text = said.read().decode()
    return Outcome(process.returncode, text, int((folder / "memory").read_text()) * 1024)


def index(
    folder: Path,
    *fasta: str,
    asked: str = "error",
    ids: str = "header",
    before: Callable[[], None] | None = None,
) -> Outcome:
    options = ["--ids", ids, "--invalid-residues", asked, "--output", "out/index.parquet"]
    options += ["--gaps", "error", "--suspicious", "error", "--residues", "out/residues.bin"]
    return call(folder, "index", "--fasta", *fasta, *options, before=before)


def split(folder: Path, shards: int = 1) -> Outcome:
    settings = complete({})["embedding"]
    del settings["invalid_residues"]
    options = ["--settings", json.dumps(settings), "--device", "cpu"]
    where = ["--index", "out/index.parquet", "--residues", "out/residues.bin"]
    where += ["--output-dir", "shards"]
    return call(folder, "split", *where, "--world-size", str(shards), *options)


def refusal(folder: Path, *fasta: str, before: Callable[[], None] | None = None) -> str:
    """The line that index ends with, no index being left."""
    outcome = index(folder, *fasta, before=before)
    assert outcome.code == 1, outcome.said
    assert not (folder / "out").exists() or list((folder / "out").iterdir()) == []
    assert outcome.said.startswith("index out: ") and outcome.said.count("\n") == 1, outcome.said
    return outcome.said.removeprefix("index out: ").removesuffix("\n")


# Sizes


def test_a_sequence_of_five_million_residues(tmp_path):
    (tmp_path / "a.faa").write_bytes(b">a\n" + b"MKVLWEDRST\n" * 500_000)
    for outcome in (index(tmp_path, "a.faa"), split(tmp_path)):
        assert outcome.code == 0, outcome.said
        assert outcome.memory < 250 * MEGABYTE
    shard = read_shard_index(tmp_path / "shards/shard_0.parquet")
    assert shard.lengths.tolist() == shard.tokens.tolist() == [5_000_000]


def test_a_header_of_five_million_letters(tmp_path):
    (tmp_path / "a.faa").write_bytes(b">a " + b"d" * 5_000_000 + b"\nMKV\n")
    assert index(tmp_path, "a.faa").code == 0
    assert [len(text) for text in _column(tmp_path, "description")] == [5_000_000]
    (tmp_path / "b.faa").write_bytes(b">" + b"i" * 5_000_000 + b"\nMKV\n")
    shutil.rmtree(tmp_path / "out")
    start = f"b.faa, line 1, record '{'i' * 40}...': the id has 5,000,000 bytes; shorten it"
    assert refusal(tmp_path, "b.faa").startswith(start)


def test_a_million_sequences_of_one_residue(tmp_path):
    letters = "LAGVSERTIDPKQNFYMHWC"
    with (tmp_path / "a.faa").open("w") as file:
        file.writelines(f">s{n}\n{letters[n % 20]}\n" for n in range(1_000_000))
    outcome = index(tmp_path, "a.faa")
    assert outcome.code == 0, outcome.said
    assert "1,000,000 sequences of 1 file" in outcome.said
    assert outcome.memory < 500 * MEGABYTE
    outcome = split(tmp_path, shards=3)
    assert outcome.code == 0, outcome.said
    assert "20 distinct of 1,000,000 sequences, in 3 shards" in outcome.said
    assert outcome.memory < 700 * MEGABYTE


def test_ten_thousand_files(tmp_path):
    (tmp_path / "data").mkdir()
    for n in range(10_000):
        (tmp_path / f"data/{n}.faa").write_bytes(b">s%d\nMKV\n" % n)
    outcome = index(tmp_path, "data/*.faa")
    assert outcome.code == 0, outcome.said
    assert "10,000 sequences of 10,000 files" in outcome.said
    assert outcome.memory < 250 * MEGABYTE
    assert split(tmp_path).code == 0
    (tmp_path / "data/9999.faa").write_bytes(b">s0\nMKV\n")
    shutil.rmtree(tmp_path / "out")
    start = "data/9999.faa, line 1, record 's0': this id was already used in data/0.faa, line 1"
    assert refusal(tmp_path, "data/*.faa").startswith(start)


def test_the_longest_ids_are_kept(tmp_path):
    ids = ["é" * 512, "i" * 1024, "\U0001f9ec" * 256]
    (tmp_path / "a.faa").write_text("".join(f">{name}\nMKV\n" for name in ids))
    assert index(tmp_path, "a.faa").code == 0
    assert [name for name, _ in read_ids_and_reasons(tmp_path / "out/index.parquet")] == ids


HOSTILE_IDS = ["$(touch${IFS}oops)", "`touch${IFS}oops`", "'\"\\", "../../../etc/passwd"]
HOSTILE_IDS += ["/etc/passwd", "a;b&c|d>e<f", "\x1b[2J\x1b[31m", "\u202eevil\u202c"]
HOSTILE_IDS += ["a\u2028b\u0085c", "a\vb\fc", "{wildcards.dataset}", "%s%n", "NULL", "-rf"]
HOSTILE_IDS += ["=cmd()", "\u2066", "é", "e\u0301"]


def test_hostile_ids_are_kept(tmp_path):
    """All of them are ids; what none may hold is in bad_fasta.py."""
    text = "".join(f">{name}\tabout {name}\nMJ\n>{n}\nMKV\n" for n, name in enumerate(HOSTILE_IDS))
    (tmp_path / "a.faa").write_bytes(text.encode())
    outcome = index(tmp_path, "a.faa", asked="skip")
    assert outcome.code == 0, outcome.said
    names = [
        name for name, reason in read_ids_and_reasons(tmp_path / "out/index.parquet") if reason
    ]
    assert names == HOSTILE_IDS
    # They are told on one line that a terminal shows as it stands.
    assert outcome.said.count("\n") == 2 and outcome.said.replace("\n", "").isprintable()
    assert split(tmp_path).code == 0
    assert read_excluded(tmp_path / "out/index.parquet").sum() == len(HOSTILE_IDS)
    assert not list(tmp_path.glob("**/oops"))


# Kinds


@pytest.fixture
def beside(tmp_path) -> Path:
    """A folder with a file that is right, so that a pattern always matches one."""
    (tmp_path / "a.faa").write_bytes(b">a\nMKV\n")
    return tmp_path


NO_FILES: list[tuple[Callable[[Path], object], str]] = [
    (os.mkfifo, "is a pipe"),
    (lambda path: path.symlink_to(path.name), "leads back to itself"),
    (lambda path: path.symlink_to("moved/away.faa"), "link to moved/away.faa, which is not there"),
    (lambda path: path.symlink_to("/dev/zero"), "is a device or a socket"),
]


@pytest.mark.parametrize(("make", "message"), NO_FILES)
@pytest.mark.parametrize("pattern", ["b.faa", "*.faa"])
def test_files_of_other_kinds_are_refused(beside, make, message, pattern):
    """By a pattern too: what it stands for would be lost in silence."""
    make(beside / "b.faa")
    said = refusal(beside, pattern)
    assert said.startswith("b.faa: is a ") and message in said


def test_a_folder(beside):
    (beside / "b.faa").mkdir()
    assert refusal(beside, "b.faa").startswith("b.faa: is a folder; name its files")
    assert refusal(beside, "b*").startswith("b*: matches only folders")
    # As data/* or data/** match folders wherever there are some.
    assert "1 sequence of 1 file" in index(beside, "*.faa").said


def test_a_link_to_a_file_counts_once(beside):
    (beside / "b.faa").symlink_to("a.faa")
    assert "1 sequence of 1 file" in index(beside, "*.faa").said


def test_a_file_without_permission_is_refused(beside):
    (beside / "a.faa").chmod(0)
    message = "cannot be read (Permission denied)"
    assert refusal(beside, "a.faa", before=_heed_permissions).startswith(f"a.faa: {message}")
    (beside / "closed").mkdir()
    (beside / "closed/a.faa").write_bytes(b">a\nMKV\n")
    (beside / "closed").chmod(0)
    found = refusal(beside, "closed/a.faa", before=_heed_permissions)
    (beside / "closed").chmod(0o700)
    assert found.startswith(f"closed/a.faa: {message}")


def _heed_permissions() -> None:
    """Let even root open no file whose mode forbids it; others have no need of this."""
    for capability in CAPABILITIES:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.mark.parametrize("name", [b"\xff.faa", b"b\n.faa", b"b\x1b[31m.faa"])
def test_a_file_name_with_control_characters_is_refused(beside, name):
    (beside / os.fsdecode(name)).write_bytes(b">b\nMKV\n")
    shown = ascii(os.fsdecode(name))[1:-1]
    assert refusal(beside, "*.faa").startswith(f"{shown}: the name holds control characters")


def test_hostile_file_names(tmp_path):
    names = ["-x.faa", "$(touch oops).faa", "[1].faa", "a b'\"`;&.faa", "é\u202e.faa", "~.faa"]
    for n, name in enumerate(names):
        (tmp_path / name).write_bytes(b">s%d\nMKV\n" % n)
    outcome = index(tmp_path, "*.faa", ids="file:header")
    assert outcome.code == 0, outcome.said
    assert sorted(_column(tmp_path, "file")) == sorted(names)
    assert split(tmp_path).code == 0


def _column(folder: Path, name: str) -> list[str]:
    with pq.ParquetFile(folder / "out/index.parquet") as file:
        found: list[str] = file.read([name])[name].to_pylist()
    return found
