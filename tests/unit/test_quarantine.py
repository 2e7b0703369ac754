"""quarantine.tsv: what gets no embedding, and why."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seqembed.checks.residues import ResidueCheck
from seqembed.errors import IndexFormatError
from seqembed.index.table import write_index
from seqembed.models.encoders.tokenization import ESM2_LETTERS
from seqembed.results.quarantine import write_quarantine
from seqembed.storage.digests import digest

J = "residue 'J' at {} is unknown to the model ({} such)"


def index(folder: Path, sequences: dict[str, str], asked: str = "skip", **options: str) -> Path:
    fasta = folder / options.pop("name", "a.fasta")
    fasta.write_text("".join(f">{n} about\n{s}\n" for n, s in sequences.items()))
    check = ResidueCheck(ESM2_LETTERS, "protein", asked, gaps="error", suspicious="error")
    write_index([fasta], folder / "index.parquet", check=check, **options)
    return folder / "index.parquet"


def test_the_header_is_there_always(tmp_path):
    path = tmp_path / "new/quarantine.tsv"
    assert write_quarantine(index(tmp_path, {"a": "MKV", "b": "W"}), path, {}) == 0
    assert path.read_text() == "sequence_id\treason\n"
    assert list(path.parent.iterdir()) == [path]


def test_each_id_stands_with_its_reason_in_the_order_of_the_index(tmp_path, monkeypatch):
    sequences = {"z": "MJ", "a": "MKV", "näme": "JJ3", "b": "W", "c": "mj*"}
    path = tmp_path / "quarantine.tsv"
    assert write_quarantine(index(tmp_path, sequences), path, {}) == 3
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines == [
        "sequence_id\treason",
        f"z\t{J.format(2, 1)}",
        f"näme\t{J.format(1, 3)}",
        f"c\t{J.format(2, 1)}",
        "",
    ]


def test_what_is_read_as_unknown_is_not_in_it(tmp_path):
    path = tmp_path / "quarantine.tsv"
    assert write_quarantine(index(tmp_path, {"a": "MJ", "b": "W"}, "unk"), path, {}) == 0
    assert path.read_text() == "sequence_id\treason\n"


def test_an_index_of_before_there_was_a_reason_excludes_nothing(tmp_path):
    golden = Path(__file__).parents[1] / "golden/index.parquet"
    assert write_quarantine(golden, tmp_path / "quarantine.tsv", {}) == 0


def test_a_file_name_does_not_break_the_table(tmp_path):
    found = index(tmp_path, {"x": "MJ", "y": "W"}, name="a\tb\nc\r.fa", ids="file:header")
    write_quarantine(found, tmp_path / "quarantine.tsv", {})
    lines = (tmp_path / "quarantine.tsv").read_bytes().split(b"\n")
    assert lines[1:] == [rb"a\tb\nc\r.fa:x" + b"\t" + J.format(2, 1).encode(), b""]


@pytest.mark.parametrize("at", [b"residue 'J'", b"first-id"])
def test_a_flipped_bit_is_noticed_and_the_earlier_file_stays(tmp_path, at):
    path, found = tmp_path / "quarantine.tsv", index(tmp_path, {"first-id": "MJ", "b": "W"})
    path.write_text("earlier")
    content = found.read_bytes()
    # Of each place where it stands: the column itself, and its least and greatest values.
    places = [n for n in range(len(content)) if content.startswith(at, n)]
    refused = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place + 3] ^= 1
        found.write_bytes(damaged)
        if pq.read_table(found).equals(_table(content, tmp_path)):
            continue
        with pytest.raises(IndexFormatError, match=f"^{found}: damaged"):
            write_quarantine(found, path, {})
        refused += 1
    assert refused
    assert path.read_text() == "earlier"


def _table(content: bytes, folder: Path):
    (folder / "whole.parquet").write_bytes(content)
    return pq.read_table(folder / "whole.parquet")


def test_every_id_of_a_sequence_that_was_not_embedded_is_there(tmp_path):
    path, sequences = tmp_path / "quarantine.tsv", {"a": "MKV", "b": "MJ", "c": "W", "d": "mkv*"}
    reasons = {digest(b"MKV"): "killed\tthe\nworker"}
    assert write_quarantine(index(tmp_path, sequences), path, reasons) == 3
    lines = path.read_text().split("\n")[1:]
    assert lines == [
        r"a" + "\t" + r"killed\tthe\nworker",
        f"b\t{J.format(2, 1)}",
        r"d" + "\t" + r"killed\tthe\nworker",
        "",
    ]
