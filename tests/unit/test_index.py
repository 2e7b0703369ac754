"""The index, and what is read of it and of shards."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indexing import index_proteins, make_check, make_shards, split_proteins, write_fasta

from seqembed.checkpoints.finished_shard import read_shard_ids
from seqembed.checks.residues import find_unknown
from seqembed.errors import FastaError, IndexFormatError, ResidueError
from seqembed.index import writer
from seqembed.index.parquet import INDEX_SCHEMA, read_metadata, whole
from seqembed.index.reader import (
    encode_rows,
    read_excluded,
    read_ids_and_reasons,
    read_lengths_and_digests,
    read_shard_index,
)
from seqembed.models.vocabularies import ESM
from seqembed.storage.digests import digest

GOLDEN = Path(__file__).parents[1] / "golden"


def test_index_columns(tmp_path):
    a, b = write_fasta(tmp_path, ["MKV", "mk*"]), write_fasta(tmp_path, ["W"], "b.fasta", "t")
    index_proteins([a, b], tmp_path / "out/index.parquet")
    table = pq.read_table(tmp_path / "out/index.parquet")
    assert table.schema.equals(INDEX_SCHEMA)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (0, "s0", "about", 3, str(a), 0, digest(b"MKV"), None),
        (1, "s1", "about", 2, str(a), 14, digest(b"MK"), None),
        (2, "t0", "about", 1, str(b), 0, digest(b"W"), None),
    ]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"index.bin", "index.parquet"}
    assert (tmp_path / "out/index.bin").read_bytes() == b"MKVMKW"


@pytest.mark.parametrize("batch_rows", [1, 65_536])
def test_index_fingerprint_is_of_ids_digests_and_reasons(tmp_path, monkeypatch, batch_rows):
    """Without excluded rows, as before an index could exclude any."""
    monkeypatch.setattr(writer, "INDEX_BATCH_ROWS", batch_rows)
    fasta, path = write_fasta(tmp_path, ["MKV", "mj", "WE*"]), tmp_path / "i.parquet"
    reason = b"\0residue 'J' at 2 is unknown to the model (1 such)\0"
    for asked, excluded in (("unk", b""), ("skip", reason)):
        index_proteins([fasta], path, "header", make_check(asked))
        rows = b"s0\0" + digest(b"MKV") + b"s1\0" + digest(b"MJ") + excluded
        expected = hashlib.blake2b(rows + b"s2\0" + digest(b"WE"), digest_size=32).hexdigest()
        assert read_metadata(path, "index")["fingerprint"] == expected


REASONS = st.one_of(st.none(), st.text("ab1", max_size=2))
ROWS = st.lists(st.tuples(st.text("ab1", min_size=1, max_size=2), REASONS), max_size=3)


@given(ROWS, ROWS)
def test_only_equal_rows_have_equal_fingerprints(rows, others):
    one, two = (encode_rows(some, [b"1" * 16] * len(some)) for some in (rows, others))
    assert (one == two) == (rows == others)


@pytest.mark.parametrize("batch_rows", [1, 2, 65_536])
def test_the_index_gives_reasons_for_excluded_rows(tmp_path, monkeypatch, batch_rows):
    monkeypatch.setattr(writer, "INDEX_BATCH_ROWS", batch_rows)
    a, b = write_fasta(tmp_path, ["MKV", "mj"]), write_fasta(tmp_path, ["M*K", "W"], "b.fasta", "t")
    path = tmp_path / "i.parquet"
    assert index_proteins([a, b], path, "header", make_check("skip")) == 4
    reason = "residue {} is unknown to the model (1 such)"
    expected = [None, reason.format("'J' at 2"), reason.format("'*' at 2"), None]
    assert list(read_ids_and_reasons(path)) == list(
        zip(["s0", "s1", "t0", "t1"], expected, strict=True)
    )
    assert read_excluded(path).tolist() == [False, True, True, False]
    lengths, digests = read_lengths_and_digests(path)
    assert lengths.tolist() == [3, 2, 3, 1]
    assert digests[1].tobytes() == digest(b"MJ")


def test_an_older_index_excludes_nothing_and_a_shard_has_a_token_for_each_residue():
    path = GOLDEN / "index.parquet"
    assert read_excluded(path).tolist() == [False] * 6
    assert list(read_ids_and_reasons(path))[3:] == [("näme", None), ("long", None), ("last", None)]
    # Nor has a shard of that time a count of tokens.
    shard = read_shard_index(GOLDEN / "shard_1.parquet")
    assert shard.tokens.tolist() == shard.lengths.tolist()


PROTEINS = st.lists(st.text("LWEKJ*lw", min_size=1, max_size=6), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(PROTEINS, st.integers(0, 30), st.sampled_from(["unk", "skip"]))
def test_every_record_is_in_the_index_once(sequences, cut, asked):
    residues = [text.upper().removesuffix("*").encode() for text in sequences]
    known = [find_unknown(text, ESM.letters) is None for text in residues]
    check = make_check(asked, suspicious="allow")
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "i.parquet"
        parts = [(sequences[:cut], "a.fasta", "s"), (sequences[cut:], "b.fasta", "t")]
        files = [write_fasta(folder, *part) for part in parts if part[0]]
        if "*" in sequences or (asked == "skip" and not any(known)):
            with pytest.raises((FastaError, ResidueError)):
                index_proteins(files, path, "header", check)
            assert not path.exists()
            return
        index_proteins(files, path, "header", check)
        rows = pq.read_table(path).to_pylist()
    ids = [f"{p[2]}{n}" for p in parts for n in range(len(p[0]))]
    assert [(row["row"], row["sequence_id"]) for row in rows] == list(enumerate(ids))
    assert [row["digest"] for row in rows] == [digest(text) for text in residues]
    assert [row["length"] for row in rows] == [len(text) for text in residues]
    expected = itertools.repeat(True, len(rows)) if asked == "unk" else known
    assert [row["excluded"] is None for row in rows] == list(expected)


def test_a_long_id_is_compared_whole(tmp_path):
    long = "i" * 100
    path = write_fasta(tmp_path, ["M", "MK"], prefix=long)
    assert index_proteins([path], tmp_path / "index.parquet") == 2
    path.write_text(f">{long}0\nM\n>{long}1\nM\n>{long}0\nK\n")
    with pytest.raises(FastaError, match="line 1; rename") as caught:
        index_proteins([path], tmp_path / "index.parquet")
    assert (caught.value.record, caught.value.line) == (f"{long}0", 5)


@pytest.mark.parametrize(
    "metadata", [{"format_version": "2"}, {"kind": "index"}, {"fingerprint": "0"}, {"rank": "x"}]
)
def test_a_shard_with_wrong_metadata_is_refused(tmp_path, metadata):
    (path,) = make_shards(tmp_path, [write_fasta(tmp_path, ["MKV", "WE"])], 1)
    table = pq.read_table(path)
    kept = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(kept | metadata), path)
    with pytest.raises(IndexFormatError, match=path.name):
        read_shard_index(path)


@pytest.mark.parametrize("content", [b"", b"PAR1 no parquet PAR1"])
def test_a_file_that_is_not_parquet_is_refused(content, tmp_path):
    path = tmp_path / "shard.parquet"
    path.write_bytes(content)
    with pytest.raises(IndexFormatError):
        read_shard_index(path)


@pytest.mark.parametrize(
    "read", [read_excluded, read_lengths_and_digests, lambda path: list(read_ids_and_reasons(path))]
)
def test_a_damaged_index_is_refused(tmp_path, read):
    path = tmp_path / "i.parquet"
    index_proteins([write_fasta(tmp_path, ["MKV", "MJ"])], path, "header", make_check("skip"))
    content, metadata = path.read_bytes(), read_metadata(path, "index")
    table = pq.read_table(path)
    # All columns, and not the footer, whose size stands in front of the last word.
    columns = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(b"\xff" * columns + content[columns:])
    with pytest.raises(IndexFormatError, match=f"{path.name}: damaged"):
        read(path)
    pq.write_table(pa.table({"a": [1]}), path)
    for read_any in (read, read_shard_index):
        with pytest.raises(IndexFormatError, match="kind None"):
            read_any(path)
    del metadata["fingerprint"]
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(IndexFormatError, match="has no fingerprint; remove it and run again"):
        read(path)


def test_a_damaged_footer_is_refused(tmp_path):
    (path,) = make_shards(tmp_path, [write_fasta(tmp_path, ["MKV", "WE"])], 1)
    table = pq.read_table(path)
    schema = table.schema.set(1, pa.field("sequence_id", pa.binary()))
    assert whole(table, 2) is table
    with pytest.raises(ValueError, match="column row has 2 rows, not 3"):
        whole(table, 3)
    pq.write_table(table.cast(schema), path)
    with pytest.raises(IndexFormatError, match="column sequence_id is of binary, not string"):
        read_shard_ids(path)


def test_a_flipped_bit_in_an_index_never_gives_another_shard(tmp_path):
    path, shard = tmp_path / "i.parquet", tmp_path / "shard.parquet"
    fasta = write_fasta(tmp_path, ["MKV", "WE", "MJ", "mkv*"])
    index_proteins([fasta], path, "header", make_check("skip"))
    split_proteins(path, [shard])
    content, expected = path.read_bytes(), pq.read_table(shard)
    for place in range(0, len(content), 19):
        flipped = bytes([content[place] ^ 1 << place % 8])
        path.write_bytes(content[:place] + flipped + content[place + 1 :])
        with suppress(IndexFormatError):
            split_proteins(path, [shard])
        assert pq.read_table(shard).equals(expected)
