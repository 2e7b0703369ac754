"""quarantine.tsv: what gets no embedding, and why."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from broken_files import flip
from known_files import write_indices

from seqembed.errors import IndexFormatError
from seqembed.results.quarantine import write_quarantine
from seqembed.storage.digests import digest

HEADER = "sequence_id\treason"
J = "residue 'J' at {} is unknown to the model ({} such)"


@pytest.mark.parametrize(
    ("sequences", "invalid"), [({"a": "MKV", "b": "W"}, "skip"), ({"a": "MJ", "b": "W"}, "unk")]
)
def test_the_header_is_there_always(tmp_path, sequences, invalid):
    path = tmp_path / "new/quarantine.tsv"
    assert write_quarantine(write_indices(tmp_path, sequences, invalid=invalid), path, {}) == 0
    assert path.read_text() == f"{HEADER}\n"
    assert list(path.parent.iterdir()) == [path]


def test_each_id_stands_with_its_reason_in_the_order_of_the_index(tmp_path):
    path, sequences = tmp_path / "quarantine.tsv", {"z": "MJ", "a": "MKV", "näme": "JJ3"}
    sequences |= {"b": "W", "c": "mj*", "d": "mkv*"}
    failed = {digest(b"MKV"): "killed\tthe\nworker"}
    assert write_quarantine(write_indices(tmp_path, sequences), path, failed) == 5
    reasons = {"z": J.format(2, 1), "a": r"killed\tthe\nworker", "näme": J.format(1, 3)}
    reasons |= {"c": J.format(2, 1), "d": r"killed\tthe\nworker"}
    lines = [HEADER, *(f"{name}\t{reason}" for name, reason in reasons.items()), ""]
    assert path.read_text(encoding="utf-8").split("\n") == lines


def test_a_file_name_does_not_break_the_table(tmp_path):
    fasta = tmp_path / "a\tb\nc\r.fa"
    index = write_indices(tmp_path, {"x": "MJ", "y": "W"}, fasta=fasta, ids="file:header")
    write_quarantine(index, tmp_path / "quarantine.tsv", {})
    lines = (tmp_path / "quarantine.tsv").read_bytes().split(b"\n")
    assert lines[1:] == [rb"a\tb\nc\r.fa:x" + b"\t" + J.format(2, 1).encode(), b""]


@pytest.mark.parametrize("at", [b"residue 'J'", b"first-id"])
def test_a_flipped_bit_is_noticed_and_the_earlier_file_stays(tmp_path, at):
    path, index = tmp_path / "quarantine.tsv", tmp_path / "index.parquet"
    write_indices(tmp_path, {"first-id": "MJ", "b": "W"})
    path.write_text("earlier")
    content, table = index.read_bytes(), pq.read_table(index)
    refused = 0
    # The text is in the column, and in the statistics as its least and greatest value.
    for place in [n + 3 for n in range(len(content)) if content.startswith(at, n)]:
        flip(index, place)
        if not pq.read_table(index).equals(table):
            with pytest.raises(IndexFormatError, match=f"^{index}: damaged"):
                write_quarantine(index, path, {})
            refused += 1
        flip(index, place)
    assert refused
    assert path.read_text() == "earlier"
