"""The index and its split into shards."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqembed import index, split
from seqembed.errors import FastaError, IndexFormatError
from seqembed.fasta import digest
from seqembed.index import read_metadata, read_shard_index, write_index
from seqembed.split import split_index


def _fasta(folder: Path, sequences: list[str], name: str = "a.fasta", prefix: str = "s") -> Path:
    path = folder / name
    path.write_text("".join(f">{prefix}{n} about\n{s}\n" for n, s in enumerate(sequences)))
    return path


def _split(folder: Path, files: list[Path], world_size: int) -> list[Path]:
    write_index(files, folder / "index.parquet")
    shards = [folder / f"index/shard_{rank}.parquet" for rank in range(world_size)]
    split_index(folder / "index.parquet", shards)
    return shards


def test_index_columns(tmp_path):
    a, b = _fasta(tmp_path, ["MKV", "mk*"]), _fasta(tmp_path, ["W"], "b.fasta", "t")
    write_index([a, b], tmp_path / "out/index.parquet")
    table = pq.read_table(tmp_path / "out/index.parquet")
    assert table.schema.equals(index.INDEX_SCHEMA)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (0, "s0", "about", 3, str(a), 0, digest(b"MKV")),
        (1, "s1", "about", 2, str(a), 14, digest(b"MK")),
        (2, "t0", "about", 1, str(b), 0, digest(b"W")),
    ]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["index.parquet"]


def test_index_fingerprint_is_of_ids_and_digests(tmp_path, monkeypatch):
    def fingerprint(*arguments: str) -> str:
        sequences, name, prefix = arguments[0].split(), arguments[1], arguments[2]
        write_index([_fasta(tmp_path, sequences, name, prefix)], tmp_path / "i.parquet")
        return read_metadata(tmp_path / "i.parquet", "index")["fingerprint"]

    first = fingerprint("MKV WE", "a.fasta", "s")
    assert first == fingerprint("mkv WE*", "b.fasta", "s")
    monkeypatch.setattr(index, "INDEX_BATCH_ROWS", 1)
    assert first == fingerprint("MKV WE", "a.fasta", "s")
    others = [fingerprint("MKV WE", "a.fasta", "t"), fingerprint("WE MKV", "a.fasta", "s")]
    assert len({first, *others}) == 3


def test_duplicate_ids_name_both_places(tmp_path):
    a, b = _fasta(tmp_path, ["M", "MK"]), _fasta(tmp_path, ["W", "WE"], "b.fasta")
    with pytest.raises(FastaError) as caught:
        write_index([a, b], tmp_path / "index.parquet")
    assert (caught.value.path, caught.value.record, caught.value.line) == (b, "s0", 1)
    assert f"{a}, line 1" in str(caught.value)
    assert "ids: file:header" in str(caught.value)
    assert not (tmp_path / "index.parquet").exists()
    write_index([a, b], tmp_path / "index.parquet", "file:header")
    names = pq.read_table(tmp_path / "index.parquet")["sequence_id"].to_pylist()
    assert names == ["a.fasta:s0", "a.fasta:s1", "b.fasta:s0", "b.fasta:s1"]


def test_duplicate_id_in_one_file(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_text(">a\nM\n>b\nM\n>a\nK\n")
    with pytest.raises(FastaError, match="line 1; rename") as caught:
        write_index([path], tmp_path / "index.parquet", "file:header")
    assert (caught.value.record, caught.value.line) == ("a.fasta:a", 5)


def test_ids_limits(tmp_path):
    with pytest.raises(ValueError, match="ids must be"):
        write_index([], tmp_path / "index.parquet", "name")
    path = _fasta(tmp_path, ["M"], prefix="i" * 1020)
    with pytest.raises(FastaError, match="over 1,024 bytes"):
        write_index([path], tmp_path / "index.parquet", "file:header")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("LWEK", min_size=1, max_size=6), min_size=1, max_size=30), st.integers(1, 5)
)
def test_split_holds_each_sequence_once_longest_first(sequences, world_size):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "GROUP_BYTES", 8)
        folder, half = Path(name), len(sequences) // 2
        files = [_fasta(folder, sequences[half:], "b.fasta", "t")]
        if half:
            files.append(_fasta(folder, sequences[:half]))
        ordered = sequences[half:] + sequences[:half]
        shards = _split(folder, files, world_size)
        seen = []
        for rank, path in enumerate(shards):
            rows = pq.read_table(path).to_pylist()
            places = [(-row["length"], row["row"]) for row in rows]
            assert places == sorted(places)
            for row in rows:
                assert row["residues"].decode() == ordered[row["row"]]
                assert row["row"] == ordered.index(ordered[row["row"]])
                assert row["digest"] == digest(row["residues"])
            found = read_shard_index(path)
            assert (found.rank, found.world_size) == (rank, world_size)
            assert found.rows.tolist() == [row["row"] for row in rows]
            assert found.lengths.tolist() == [row["length"] for row in rows]
            assert found.digests.shape == (len(rows), 16)
            seen += [row["residues"].decode() for row in rows]
            groups = pq.ParquetFile(path)
            for number in range(groups.num_row_groups):
                group = groups.read_row_group(number)
                assert group.num_rows == 1 or sum(group["length"].to_pylist()) <= 8
        assert sorted(seen) == sorted(set(sequences))


def test_split_balances_cost(tmp_path):
    random = np.random.default_rng(0)
    sequences = ["".join(random.choice(list("LWEK"), n)) for n in random.integers(5, 900, 200)]
    shards = [read_shard_index(p) for p in _split(tmp_path, [_fasta(tmp_path, sequences)], 4)]
    costs = [((s.lengths + 2) * (1 + (s.lengths + 2) / 3840)).sum() for s in shards]
    assert max(costs) / min(costs) < 1.02


def test_more_shards_than_sequences(tmp_path):
    shards = _split(tmp_path, [_fasta(tmp_path, ["M"])], 3)
    assert [len(read_shard_index(path).rows) for path in shards] == [1, 0, 0]
    assert read_shard_index(shards[2]).digests.shape == (0, 16)


@pytest.mark.parametrize("changed", [["MKV", "WW"], ["MKV"], ["MKV", "WE", "L"]])
def test_split_refuses_a_changed_fasta(tmp_path, changed):
    path = _fasta(tmp_path, ["MKV", "WE"])
    write_index([path], tmp_path / "index.parquet")
    _fasta(tmp_path, changed)
    with pytest.raises(FastaError, match="changed since"):
        split_index(tmp_path / "index.parquet", [tmp_path / "shard.parquet"])
    assert not (tmp_path / "shard.parquet").exists()


@pytest.mark.parametrize(
    "metadata", [{"format_version": "2"}, {"kind": "index"}, {"fingerprint": "0"}, {"rank": "x"}]
)
def test_read_shard_index_checks(tmp_path, metadata):
    (path,) = _split(tmp_path, [_fasta(tmp_path, ["MKV", "WE"])], 1)
    table = pq.read_table(path)
    kept = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(kept | metadata), path)
    with pytest.raises(IndexFormatError, match=path.name):
        read_shard_index(path)


def test_damaged_files(tmp_path):
    path = tmp_path / "shard.parquet"
    for content in (b"", b"PAR1 no parquet PAR1"):
        path.write_bytes(content)
        with pytest.raises(IndexFormatError):
            read_shard_index(path)
        with pytest.raises(IndexFormatError):
            split_index(path, [tmp_path / "other.parquet"])
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(IndexFormatError, match="kind None"):
        read_shard_index(path)
