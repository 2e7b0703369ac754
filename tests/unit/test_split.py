"""The split of an index into shards."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from described_models import DNA_TOKENIZER
from hypothesis import example, given, settings
from hypothesis import strategies as st
from indexing import index_proteins, make_check, make_shards, split_proteins, write_fasta

from seqembed.checks.residues import find_unknown
from seqembed.errors import ConfigError, IndexFormatError
from seqembed.index import split
from seqembed.index.parquet import read_metadata
from seqembed.index.reader import read_shard_index
from seqembed.models.encoders.tokenization import BpeTokenizer, ResidueTokenizer
from seqembed.models.vocabularies import ESM
from seqembed.settings.lengths import LengthPolicy
from seqembed.storage.digests import digest

DNA, PROTEIN = BpeTokenizer(DNA_TOKENIZER), ResidueTokenizer(ESM)


def _split(
    folder: Path, files: list[Path], world_size: int, asked: str = "error", **options: Any
) -> list[Path]:
    tokenizer = options.get("tokenizer", PROTEIN)
    check = make_check(asked, "DNA" if tokenizer is DNA else "protein", tokenizer.letters)
    return make_shards(folder, files, world_size, check, **options)


def _policy(name: str, max_length: int) -> LengthPolicy:
    return LengthPolicy(long_sequences=name, max_length=max_length)


SEQUENCES = st.lists(st.text("LWEKJ", min_size=1, max_size=6), min_size=1, max_size=30)
# Repeats, so that long texts may be few tokens.
CONTIGS = st.lists(
    st.one_of(
        st.text("ACGTN", min_size=1, max_size=12),
        st.builds(lambda unit, times: unit * times, st.sampled_from("ACGT"), st.integers(1, 40)),
    ),
    min_size=1,
    max_size=20,
)
CASES = st.one_of(
    st.tuples(SEQUENCES, st.just(PROTEIN), st.sampled_from(["unk", "skip"])),
    st.tuples(CONTIGS, st.just(DNA), st.sampled_from(["unk", "skip"])),
)


@settings(max_examples=100)
@example((["MJ"], PROTEIN, "skip"), 3, "full")
# 30 letters of few tokens, 20 of many: DNA is ordered by tokens, not by letters.
@example((["A" * 30, "GTCGACCGTATCGGATACGC"], DNA, "unk"), 1, "full")
@given(CASES, st.integers(1, 5), st.sampled_from(["full", "window", "truncate"]))
def test_shards_hold_each_sequence_once_longest_first(case, world_size, policy):
    sequences, tokenizer, asked = case
    # One that is known, so that `skip` leaves some.
    sequences = [*sequences, "A"]
    half = len(sequences) // 2
    ordered = sequences[half:] + sequences[:half]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "GROUP_BYTES", 8)
        folder = Path(name)
        files = [write_fasta(folder, sequences[half:], "b.fasta", "t")]
        files.append(write_fasta(folder, sequences[:half]))
        limits = _policy(policy, 0 if policy == "full" else 3)
        options = {"tokenizer": tokenizer, "asked": asked, "policy": limits}
        shards = _split(folder, files, world_size, **options)
        seen = []
        for rank, path in enumerate(shards):
            _check_shard(path, ordered, tokenizer, rank, world_size)
            seen += [row["residues"] for row in pq.read_table(path).to_pylist()]
    texts = {text.encode() for text in sequences}
    kept = [t for t in texts if asked == "unk" or not find_unknown(t, tokenizer.letters)]
    assert sorted(seen) == sorted(kept)


def _check_shard(path: Path, ordered: list[str], tokenizer: Any, rank: int, size: int) -> None:
    """A shard says of each row what is true of its sequence, in its order, in small groups."""
    rows = pq.read_table(path).to_pylist()
    places = [(-row["tokens"], row["row"]) for row in rows]
    assert places == sorted(places)
    for row in rows:
        assert row["residues"].decode() == ordered[row["row"]]
        assert row["row"] == ordered.index(ordered[row["row"]])
        assert row["digest"] == digest(row["residues"])
        assert row["length"] == len(row["residues"])
        assert row["tokens"] == len(tokenizer.encode(row["residues"])) - 2
    found = read_shard_index(path)
    assert (found.rank, found.world_size) == (rank, size)
    assert found.digests.shape == (len(rows), 16)
    for name in ("row", "length", "tokens"):
        column = getattr(found, {"row": "rows", "length": "lengths"}.get(name, name))
        assert column.tolist() == [row[name] for row in rows]
    groups = pq.ParquetFile(path)
    for number in range(groups.num_row_groups):
        group = groups.read_row_group(number)
        assert group.num_rows == 1 or sum(group["length"].to_pylist()) <= 8


def test_each_distinct_sequence_is_tokenized_once(tmp_path):
    counted = []

    class Counting(ResidueTokenizer):
        def count(self, residues: bytes) -> int:
            counted.append(residues)
            return super().count(residues)

    sequences = ["MKV", "WE", "mkv*", "MJ", "WE"]
    _split(tmp_path, [write_fasta(tmp_path, sequences)], 2, tokenizer=Counting(ESM), asked="skip")
    assert counted == [b"MKV", b"WE"]


@pytest.mark.parametrize("name", ["window", "truncate", "full"])
@pytest.mark.parametrize("tokenizer", [PROTEIN, DNA])
def test_costs_are_those_of_the_policy(tmp_path, name, tokenizer):
    """Of 3 shards, whole sequences, windows and cut ones share the work evenly."""
    generator = random.Random(2)
    letters = "LWEK" if tokenizer is PROTEIN else "ACGT"
    lengths = [9000, *(generator.randrange(20, 3000) for _ in range(150))]
    sequences = ["".join(generator.choices(letters, k=n)) for n in lengths]
    policy = _policy(name, 0 if name == "full" else 100)
    files = [write_fasta(tmp_path, sequences)]
    shards = map(read_shard_index, _split(tmp_path, files, 3, tokenizer=tokenizer, policy=policy))
    costs = [sum(_cost(int(t), name, 100) for t in shard.tokens) for shard in shards]
    assert max(costs) / min(costs) < 1.02


def _cost(tokens: int, name: str, limit: int) -> float:
    """By each window in turn."""
    if name == "full" or tokens <= limit:
        spans = [tokens + 2]
    elif name == "truncate":
        spans = [limit + 2]
    else:
        spans = [limit + 2] * (1 + -(-(tokens - limit) // (limit // 2)))
    return sum(span + span * span / 3840 for span in spans)


def test_too_long_sequences_are_counted_by_id_and_named(tmp_path):
    long = "MKVLAT"
    files = [
        write_fasta(tmp_path, ["MKV", "MJ" * 9, long]),
        write_fasta(tmp_path, [long], "b.fasta", "t"),
    ]
    with pytest.raises(ConfigError) as caught:
        _split(tmp_path, files, 2, asked="skip", policy=_policy("error", 5))
    text = str(caught.value)
    assert text.startswith("2 of 3 sequences are longer than 5 residues (the longest has 6)")
    assert f"record 's2' of {files[0]}, record 't0' of {files[1]}" in text
    assert list((tmp_path / "index").iterdir()) == []
    _split(tmp_path, files, 2, asked="skip", policy=_policy("error", 6))
    with pytest.raises(ConfigError, match="3 of 4 sequences are longer"):
        _split(tmp_path, files, 2, asked="unk", policy=_policy("error", 5))


def test_dna_is_too_long_in_tokens(tmp_path):
    fasta, count = write_fasta(tmp_path, ["ACGTTGCA" * 9]), DNA.count(b"ACGTTGCA" * 9)
    options = {"tokenizer": DNA, "unit": "tokens"}
    with pytest.raises(ConfigError, match=f"longer than {count - 1} tokens"):
        _split(tmp_path, [fasta], 1, policy=_policy("error", count - 1), **options)
    _split(tmp_path, [fasta], 1, policy=_policy("error", count), **options)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        (b"MKVW", "has 4 bytes, but its index has 5 residues"),
        (b"MKVWEL", "has 6 bytes, but its index has 5 residues"),
        (b"MKVWK", "is damaged, or belongs to another index"),
        (b"WEMKV", "is damaged, or belongs to another index"),
    ],
)
def test_damaged_or_foreign_residues_are_refused(tmp_path, content, problem):
    index_proteins([write_fasta(tmp_path, ["MKV", "WE"])], tmp_path / "index.parquet")
    residues = tmp_path / "index.bin"
    residues.write_bytes(content) if content else residues.unlink()
    advice = f"remove {residues} and run again, so that the FASTA files are indexed anew"
    with pytest.raises(IndexFormatError, match=f"^{residues}: {problem}.*; {advice}$"):
        split_proteins(tmp_path / "index.parquet", [tmp_path / "shard.parquet"])
    assert not (tmp_path / "shard.parquet").exists()


def test_an_older_index_is_split_and_the_fasta_is_not_opened(tmp_path):
    """Older indices have no column `excluded`."""
    fasta = write_fasta(tmp_path, ["MKV", "WE", "MKV"])
    index_proteins([fasta], tmp_path / "new.parquet")
    fasta.unlink()
    table = pq.read_table(tmp_path / "new.parquet").drop_columns("excluded")
    metadata = read_metadata(tmp_path / "new.parquet", "index")
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "old.parquet")
    (tmp_path / "new.bin").rename(tmp_path / "old.bin")
    sources = split_proteins(tmp_path / "old.parquet", [tmp_path / "shard.parquet"])
    assert (sources.count, sources.distinct) == (3, 2)
    assert read_shard_index(tmp_path / "shard.parquet").rows.tolist() == [0, 1]


def test_leftovers_of_a_killed_split_are_removed(tmp_path):
    index_proteins([write_fasta(tmp_path, ["MKV", "WE"])], tmp_path / "index.parquet")
    left = tmp_path / f"index/.shard_0.parquet.{'0123456789abcdef' * 2}.tmp"
    left.parent.mkdir()
    left.touch()
    split_proteins(tmp_path / "index.parquet", [tmp_path / "index/shard_0.parquet"])
    assert sorted(path.name for path in left.parent.iterdir()) == ["reuse.json", "shard_0.parquet"]
