"""Real layouts are read as they mean, and what would give a wrong row in silence is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest
from odd_fasta import ODD_FASTA, Odd
from real_layouts import LAYOUTS, Layout

from seqembed.checks.residues import ResidueCheck
from seqembed.errors import FastaError, ResidueError
from seqembed.fasta.compression import zstd
from seqembed.fasta.reader import read_batches
from seqembed.index.table import read_names, write_index
from seqembed.models.encoders.tokenization import ESM2_LETTERS, BpeTokenizer

TOKENIZER = Path(__file__).parents[1] / "data/dnabert_s/tokenizer.json"
LETTERS = {"protein": ESM2_LETTERS, "DNA": BpeTokenizer(TOKENIZER).letters}
ODD = {f"{kind}: {name}": odd for kind, cases in ODD_FASTA.items() for name, odd in cases.items()}
COMPRESS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}


def index(path: Path, case: Layout | Odd, suspicious: str = "error", ids: str = "header") -> Path:
    """The index of a file, which is read as the case says."""
    check = ResidueCheck(
        LETTERS[case.molecule], case.molecule, case.asked, gaps=case.gaps, suspicious=suspicious
    )
    output = path.with_suffix(".parquet")
    write_index([path], output, ids, check)
    return output


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_programs_and_databases(name, tmp_path):
    layout, path = LAYOUTS[name], tmp_path / "a.fasta"
    path.write_bytes(layout.content)
    names = [found for found, _ in read_names(index(path, layout, ids=layout.ids))]
    records = [r for part in read_batches(path, without_gaps=layout.gaps == "remove") for r in part]
    found = [(name, r.residues.decode()) for name, r in zip(names, records, strict=True)]
    expected = [(name, residues.upper()) for name, residues in layout.expected]
    assert found == expected


@pytest.mark.parametrize("kind", COMPRESS)
def test_layouts_are_read_compressed_in_parts(kind, tmp_path):
    """Of several streams, as parallel programs write them, with padding between."""
    plain = LAYOUTS["UniProt"].content
    padding = b"\0" * 8 if kind in ("gzip", "xz") else b""
    parts = [COMPRESS[kind](part) + padding for part in (plain[:70], plain[70:71], b"", plain[71:])]
    path = tmp_path / "a.fasta"
    path.write_bytes(b"".join(parts))
    for size in (1, 7, 1 << 18):
        records = [r for part in read_batches(path, chunk_bytes=size) for r in part]
        assert [(r.sequence_id, r.residues.decode()) for r in records] == LAYOUTS[
            "UniProt"
        ].expected


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_sequence_is_refused(name, tmp_path):
    odd, path = ODD[name], tmp_path / "a.fasta"
    path.write_bytes(odd.content)
    with pytest.raises((FastaError, ResidueError)) as caught:
        index(path, odd)
    message = str(caught.value)
    assert odd.phrase in message
    assert message.isprintable()
    if odd.line:
        assert f"{path}, line {odd.line}" in message
    assert ("set `suspicious: allow`" in message) == odd.allowed


@pytest.mark.parametrize("name", [name for name, odd in ODD.items() if odd.allowed])
def test_what_is_suspicious_is_read_where_that_is_allowed(name, tmp_path):
    path = tmp_path / "a.fasta"
    path.write_bytes(ODD[name].content)
    assert index(path, ODD[name], suspicious="allow").exists()


def test_every_kind_has_six_examples():
    assert all(len(cases) >= 6 for cases in ODD_FASTA.values())
    assert len(LAYOUTS) >= 20
