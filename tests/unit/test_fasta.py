"""Reading FASTA: formats, errors with their place, and a round trip."""

from __future__ import annotations

import gzip
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indexing import read_records

from seqembed.errors import FastaError
from seqembed.fasta.files import find_fasta_files


def _write(folder: Path, content: bytes, name: str = "a.fasta") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b">a\nMKV\n", [("a", "", b"MKV", 1, 0)]),
        (b">a b c\nMKV", [("a", "b c", b"MKV", 1, 0)]),
        (b">a\tb\nMKV", [("a", "b", b"MKV", 1, 0)]),
        (b">a x\r\nmk\r\nv\r\n>b\r\nL\r\n", [("a", "x", b"MKV", 1, 0), ("b", "", b"L", 4, 13)]),
        (b"\n\n>a\n\nM K\n\nV*\n\n", [("a", "", b"MKV", 3, 2)]),
        (b">a >b > c\nMKV\n>b\nLL\n", [("a", ">b > c", b"MKV", 1, 0), ("b", "", b"LL", 3, 14)]),
        (b">a\nX.-BZUO\n", [("a", "", b"X.-BZUO", 1, 0)]),
        (b">a\nM*j1\xc3**\n", [("a", "", b"M*J1\xc3*", 1, 0)]),
        (b">a\n" + b"acgun" * 20, [("a", "", b"ACGUN" * 20, 1, 0)]),
        (">é ü\nM\n".encode(), [("é", "ü", b"M", 1, 0)]),
        (b">" + b"i" * 1024 + b"\nM\n", [("i" * 1024, "", b"M", 1, 0)]),
    ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_reads(tmp_path, content, expected, compress, chunk_bytes):
    path = _write(tmp_path, gzip.compress(content) if compress else content)
    assert list(read_records(path, chunk_bytes=chunk_bytes)) == expected


@pytest.mark.parametrize(
    ("content", "record", "line"),
    [
        (b"", None, None),
        (b"\nMKV\n>a\nM\n", None, 2),
        (b">a\nM\n>b\n\nM\n>c\n*\n", "c", 6),
        (b">a\nM\n>b\n\nM>c\nM\n", "b", 5),
        (b">a\nM\n>" + b"i" * 1025 + b"\nM\n", "i" * 40 + "...", 3),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 2, 1 << 20])
def test_errors_know_their_place(tmp_path, content, record, line, chunk_bytes):
    """What they say is in tests/faults/bad_fasta.py."""
    path = _write(tmp_path, content)
    with pytest.raises(FastaError) as caught:
        list(read_records(path, chunk_bytes=chunk_bytes))
    assert (caught.value.path, caught.value.record, caught.value.line) == (path, record, line)


def test_missing_file(tmp_path):
    with pytest.raises(FastaError, match="cannot be read"):
        list(read_records(tmp_path / "none.fasta"))


@pytest.mark.timing
def test_a_large_record_takes_linear_time(tmp_path):
    path = _write(tmp_path, b">a\n" + b"MKVLWEDRST\n" * 2_000_000)
    begin = time.perf_counter()
    (record,) = read_records(path, chunk_bytes=4096)
    assert len(record.residues) == 20_000_000
    assert time.perf_counter() - begin < 10


@pytest.mark.timing
def test_comments_take_linear_time(tmp_path):
    lines = b";" * 10_000 + b"\n" + b"; a\n" * 50_000
    begin = time.perf_counter()
    (record,) = read_records(_write(tmp_path, b">a\n" + lines + b"MKV\n" + lines))
    assert record.residues == b"MKV"
    with pytest.raises(FastaError, match="begins with `;`"):
        list(read_records(_write(tmp_path, b">a\nMKV\n" + lines + b"MKV\n")))
    assert time.perf_counter() - begin < 5


def test_find_fasta_files(tmp_path):
    b, a, odd = (_write(tmp_path, b">a\nM", n) for n in ("b.fasta", "a.fasta", "[1].fasta"))
    assert find_fasta_files(str(tmp_path / "?.fasta")) == [a, b]
    assert find_fasta_files([str(b), str(tmp_path / "?.fasta")]) == [b, a]
    assert find_fasta_files(str(odd)) == [odd]
    for patterns in ([str(b), str(tmp_path / "*.faa")], []):
        with pytest.raises(FastaError):
            find_fasta_files(patterns)


NAMES = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1)
BLANKS = st.sampled_from(["", "a", "x > y", ">b"])
# A dot at the end would be a stop, or one of several gaps.
SEQUENCES = st.text("LAGVSERTIDPQKNFYMHWCXBUZO.-lagvxJj19", max_size=90).map(lambda s: s + "M")
RECORDS = st.lists(st.tuples(NAMES, BLANKS, SEQUENCES), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.integers(1, 30), st.sampled_from(["\n", "\r\n"]), st.integers(1, 40))
def test_round_trip(records, width, newline, chunk_bytes):
    text, expected = "", []
    for name, description, sequence in records:
        place = (text.count("\n") + 1, len(text))
        text += f">{name} {description}{newline}"
        text += "".join(
            sequence[at : at + width] + newline for at in range(0, len(sequence), width)
        )
        expected.append((name, description, sequence.upper().encode(), *place))
    with tempfile.TemporaryDirectory() as folder:
        path = _write(Path(folder), text.encode())
        assert list(read_records(path, chunk_bytes=chunk_bytes)) == expected
