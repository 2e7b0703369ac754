"""The merge of shards into embeddings.h5."""

from __future__ import annotations

import logging
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqembed.checks.residues import ResidueCheck
from seqembed.errors import IndexFormatError, ShardError
from seqembed.flags import TRUNCATED, WINDOWED
from seqembed.index.parquet import INDEX_SCHEMA, read_metadata
from seqembed.index.split import split_index
from seqembed.index.table import read_lengths_and_digests, read_shard_index, write_index
from seqembed.models.encoders.tokenization import ESM2_LETTERS
from seqembed.results import merge as merge_module
from seqembed.results.merge import Summary, merge, remove_checkpoints
from seqembed.results.quarantine import write_quarantine
from seqembed.results.reader import open_embeddings, slab_bounds
from seqembed.results.rows import TokenRows
from seqembed.results.seal import seal
from seqembed.results.writer import Slab, write_embeddings
from seqembed.storage.digests import digest

RECIPE = "ab" * 32
OTHER_RECIPE = "cd" * 32
STORED = f"store/{RECIPE[:12]}.h5"
REASON = "killed the worker"
LONGEST = 4
WIDTH = 4
LOGGER = logging.getLogger("test_merge")
SEQUENCES = ["MKV", "WE", "MKV", "ACDEFGH", "WE", "L", "mkv*"]


def _write_index(folder: Path, sequences: Sequence[str], prefix: str = "s") -> Path:
    fasta, index = folder / "a.fasta", folder / "index.parquet"
    fasta.write_text("".join(f">{prefix}{n}\n{s}\n" for n, s in enumerate(sequences)))
    # Sequences with a J are left out.
    write_index(
        [fasta],
        index,
        check=ResidueCheck(ESM2_LETTERS, "protein", "skip", gaps="error", suspicious="error"),
    )
    return index


def _index(folder: Path, sequences: Sequence[str], world_size: int, prefix: str = "s") -> Path:
    """Write a FASTA file, its index and the index of each shard."""
    index = _write_index(folder, sequences, prefix)
    split_index(index, [folder / f"index/shard_{rank}.parquet" for rank in range(world_size)])
    return index


def _rows(digests: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """A row that its sequence alone decides."""
    return np.tile(digests.astype(np.float32), -(-width // 16))[:, :width]


def _write_shard(folder: Path, place: int, *, keep: slice = slice(None), **changes: Any) -> Path:
    """Write a shard of its index, in input order; `changes` replace attributes."""
    part = read_shard_index(folder / f"index/shard_{place}.parquet")
    order = np.argsort(part.rows)[keep]
    own = {"rank": place, "world_size": part.world_size, "shard_fingerprint": part.fingerprint}
    path = folder / f"shards/shard_{place}.h5"
    _write_rows(path, part.lengths[order], part.digests[order], **own | changes)
    return path


def _write_rows(
    path: Path,
    lengths: np.ndarray,
    digests: np.ndarray,
    *,
    without: Sequence[str] = (),
    width: int = WIDTH,
    shift: int = 0,
    storage: str = "float32",
    tokens: bool = False,
    **attributes: Any,
) -> None:
    left_out = [digest(sequence.encode()) for sequence in without]
    here = np.array([key.tobytes() not in left_out for key in digests], bool)
    quarantine = {key.tobytes(): REASON for key in digests[~here]}
    lengths, digests = lengths[here], digests[here]
    slabs = (
        Slab(
            sequence_ids=[f"row {row}" for row in range(start, stop)],
            lengths=lengths[start:stop],
            digests=digests[start:stop],
            flags=np.where(lengths[start:stop] > LONGEST, TRUNCATED, 0).astype(np.uint8),
            embeddings=(_rows(digests[start:stop], width) + np.float32(shift)).astype(storage),
        )
        for start, stop in slab_bounds(len(lengths), width)
    )
    own = {"kind": "shard", "model": "toy", "weights_sha256": "ef" * 32, "layer": 6}
    own |= {"recipe_fingerprint": RECIPE} | attributes
    residues = TokenRows(
        offsets=np.append(0, lengths.cumsum()),
        parts=(
            _token_rows(key, n, width, storage)
            for key, n in zip(digests, lengths.tolist(), strict=True)
        ),
    )
    write_embeddings(
        path,
        count=len(lengths),
        width=width,
        storage=storage,
        attributes=own,
        slabs=slabs,
        residues=residues if tokens else None,
        quarantine=quarantine,
    )


def _token_rows(key: np.ndarray, length: int, width: int, storage: str) -> np.ndarray:
    """The token rows that a sequence's digest and length alone decide."""
    return (_rows(key[None], width) + np.arange(length)[:, None]).astype(storage)


def _prepare(
    folder: Path,
    sequences: Sequence[str] = SEQUENCES,
    world_size: int = 2,
    prefix: str = "s",
    **changes: Any,
) -> tuple[Path, list[Path]]:
    index = _index(folder, sequences, world_size, prefix)
    return index, [_write_shard(folder, rank, **changes) for rank in range(world_size)]


def _merge(folder: Path, index: Path, shards: Sequence[Path]) -> Summary:
    return merge(index, shards, folder / "embeddings.h5", LOGGER)


def _read(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        ids = file["sequence_ids"].asstr()[:].tolist()
        names = [n for n in file if n not in ("sequence_ids", "residues", "quarantine")]
        return {"ids": ids, **{n: file[n][:] for n in names}}


def _check(path: Path, sequences: Sequence[str], prefix: str = "s", shift: float = 0) -> None:
    """Each id that is not left out once, in order, with the row of its own sequence."""
    kept = {
        n: s.upper().removesuffix("*").encode() for n, s in enumerate(sequences) if "J" not in s
    }
    residues = list(kept.values())
    found = _read(path)
    digests = np.array([list(digest(r)) for r in residues], np.uint8).reshape(-1, 16)
    assert found["ids"] == [f"{prefix}{n}" for n in kept]
    assert found["lengths"].tolist() == [len(r) for r in residues]
    np.testing.assert_array_equal(found["digests"], digests)
    np.testing.assert_array_equal(found["embeddings"], _rows(digests) + np.float32(shift))
    assert found["flags"].tolist() == [TRUNCATED * (len(r) > LONGEST) for r in residues]


def _checkpoints(folder: Path, *recipes: str) -> list[Path]:
    paths = [folder / "checkpoints" / f"{recipe[:12]}-{'0' * 12}" for recipe in recipes]
    for path in paths:
        (path / "shard_0").mkdir(parents=True)
        (path / "shard_0/batch_00000.safetensors").write_bytes(b"rows")
    return paths


def _damage(path: Path) -> bytes:
    """Flip a bit in the middle of a file, in a file of its own; return the content."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
    return bytes(content)


@pytest.fixture
def few_open_files():
    """Room for twenty more than are open, until it is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    yield few
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("tokens", [False, True])
def test_more_shards_than_files_may_be_open_at_first(tokens, tmp_path, few_open_files):
    sequences = ["M" + "K" * number for number in range(40)]
    index, shards = _prepare(tmp_path, sequences, world_size=40, tokens=tokens)
    assert _merge(tmp_path, index, shards).sequences == 40
    _check(tmp_path / "embeddings.h5", sequences)


def test_more_shards_than_may_ever_be_open_are_refused(tmp_path, monkeypatch):
    index, shards = _prepare(tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (69, 69))
    with pytest.raises(OSError, match="files have to be open at once, and the hard limit is 69"):
        _merge(tmp_path, index, shards)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_id_gets_its_row_in_input_order(tmp_path, world_size):
    index, shards = _prepare(tmp_path, world_size=world_size)
    assert _merge(tmp_path, index, shards) == Summary(
        sequences=7,
        distinct=4,
        dimensions=WIDTH,
        windowed=0,
        truncated=1,
        relinked=False,
        quarantined={},
    )
    _check(tmp_path / "embeddings.h5", SEQUENCES)
    assert os.path.samefile(tmp_path / "embeddings.h5", tmp_path / STORED)


def _check_token_rows(path: Path, sequences: Sequence[str], storage: str = "float32") -> None:
    """Each id has the token rows of its own sequence, found by the offsets."""
    residues = [s.upper().removesuffix("*").encode() for s in sequences if "J" not in s]
    with h5py.File(path) as file:
        offsets, rows = file["residues/offsets"][:], file["residues/embeddings"][:]
    assert rows.dtype == storage
    assert offsets.tolist() == [0, *np.cumsum([len(r) for r in residues]).tolist()]
    for number, sequence in enumerate(residues):
        key = np.array(list(digest(sequence)), np.uint8)
        expected = _token_rows(key, len(sequence), WIDTH, storage)
        np.testing.assert_array_equal(rows[offsets[number] : offsets[number + 1]], expected)


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("world_size", [1, 2, 6])
def test_every_id_gets_its_token_rows_duplicates_too(tmp_path, world_size, storage, monkeypatch):
    # Small parts: those of one sequence come in several, and shards beyond the fourth are empty.
    monkeypatch.setattr("seqembed.results.rows.PART_BYTES", 2 * WIDTH * 4)
    monkeypatch.setattr("seqembed.results.reader.SLAB_ROWS", 3)
    how = {"storage": storage, "tokens": True, "per_residue": True}
    index, shards = _prepare(tmp_path, world_size=world_size, **how)
    assert _merge(tmp_path, index, shards).sequences == 7
    _check_token_rows(tmp_path / "embeddings.h5", SEQUENCES, storage)
    with open_embeddings(tmp_path / "embeddings.h5") as file:
        assert file.rows.dtype == storage and file.attributes["per_residue"] is True
        np.testing.assert_array_equal(file.rows, _rows(file.digests()).astype(storage))
    (tmp_path / "embeddings.h5").unlink()
    assert _merge(tmp_path, index, shards).relinked
    _check_token_rows(tmp_path / "embeddings.h5", SEQUENCES, storage)


@pytest.mark.parametrize("without", [0, 1])
def test_a_shard_without_token_rows_beside_one_with_is_told(tmp_path, without):
    index, shards = _prepare(tmp_path, tokens=True)
    _write_shard(tmp_path, without)
    found, wanted = ("True", "False") if without == 0 else ("False", "True")
    with pytest.raises(ShardError, match=f"^{shards[1]}: token rows is {found}, not {wanted} as"):
        _merge(tmp_path, index, shards)
    assert not (tmp_path / "embeddings.h5").exists()


def test_token_rows_of_another_sequence_count_are_told(tmp_path):
    index, shards = _prepare(tmp_path, tokens=True)
    with h5py.File(shards[1], "r+") as file:
        file["residues/offsets"][-1] -= 1
    seal(shards[1])
    with pytest.raises(ShardError, match=f"^{shards[1]}: has no offsets of its token rows"):
        _merge(tmp_path, index, shards)


# Sequences that the index excludes

LEFT_OUT = {
    "at the beginning": ["MJ", "JJ", "MKV", "WE", "MKV"],
    "at the end": ["MKV", "WE", "MKV", "JJ", "MJ"],
    "in the middle": ["MKV", "JJ", "MJ", "J", "WE", "MKV"],
    "everywhere": ["J", "MKV", "J", "JJ", "WE", "MJ", "MKV", "J", "ACDEFGH", "L", "J", "J"],
    "all but one": ["J", "JJ", "MJ", "L", "J"],
}


@pytest.mark.parametrize("sequences", LEFT_OUT.values(), ids=LEFT_OUT.keys())
@pytest.mark.parametrize("slab_rows", [1, 2, 3, 100])
def test_what_is_excluded_is_left_out_and_the_rest_stays_in_order(
    tmp_path, sequences, slab_rows, monkeypatch
):
    monkeypatch.setattr("seqembed.results.reader.SLAB_ROWS", slab_rows)
    index, shards = _prepare(tmp_path, sequences, tokens=True)
    kept = [s for s in sequences if "J" not in s]
    summary = _merge(tmp_path, index, shards)
    assert (summary.sequences, summary.distinct) == (len(kept), len(set(kept)))
    _check(tmp_path / "embeddings.h5", sequences)
    _check_token_rows(tmp_path / "embeddings.h5", sequences)
    left_out = write_quarantine(index, tmp_path / "quarantine.tsv", {})
    assert left_out + summary.sequences == len(sequences)
    lines = (tmp_path / "quarantine.tsv").read_text().splitlines()
    names = [line.split("\t")[0] for line in lines[1:]]
    assert names == [f"s{n}" for n, s in enumerate(sequences) if "J" in s]
    assert set(names).isdisjoint(_read(tmp_path / "embeddings.h5")["ids"])
    # The same again is there already.
    (tmp_path / "embeddings.h5").unlink()
    again = _merge(tmp_path, index, shards)
    assert again.relinked and {**vars(again), "relinked": False} == vars(summary)
    _check(tmp_path / "embeddings.h5", sequences)


def test_an_index_that_excludes_other_sequences_is_merged_anew(tmp_path):
    """The ids and sequences are those of before, and some are let pass that were not."""
    sequences = ["MKV", "MJ", "WE"]
    _merge(tmp_path, *_prepare(tmp_path, sequences))
    fasta, index = tmp_path / "a.fasta", tmp_path / "index.parquet"
    write_index(
        [fasta],
        index,
        check=ResidueCheck(ESM2_LETTERS, "protein", "unk", gaps="error", suspicious="error"),
    )
    split_index(index, [tmp_path / f"index/shard_{rank}.parquet" for rank in range(2)])
    shards = [_write_shard(tmp_path, rank) for rank in range(2)]
    summary = _merge(tmp_path, index, shards)
    assert (summary.sequences, summary.relinked) == (3, False)
    assert _read(tmp_path / "embeddings.h5")["ids"] == ["s0", "s1", "s2"]


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("without", [["MKV"], ["L", "WE"], ["MKV", "WE", "ACDEFGH"]])
def test_what_could_not_be_embedded_is_left_out_under_all_its_ids(tmp_path, without, tokens):
    index = _index(tmp_path, SEQUENCES, 2)
    given = {"without": without, "tokens": tokens}
    shards = [_write_shard(tmp_path, rank, **given) for rank in range(2)]
    summary = _merge(tmp_path, index, shards)
    names = {n: s.upper().rstrip("*") for n, s in enumerate(SEQUENCES)}
    kept = [f"s{n}" for n, residues in names.items() if residues not in without]
    expected = dict.fromkeys(map(digest, (s.encode() for s in without)), REASON)
    assert (summary.sequences, summary.quarantined) == (len(kept), expected)
    with open_embeddings(tmp_path / "embeddings.h5") as file:
        assert file.quarantine() == expected
        np.testing.assert_array_equal(file.rows, _rows(file.digests()))
    assert _read(tmp_path / "embeddings.h5")["ids"] == kept


@pytest.mark.parametrize("shards", [1, 2])
def test_where_all_sequences_failed_nothing_is_merged(tmp_path, shards):
    index = _index(tmp_path, SEQUENCES, shards)
    without = ["MKV", "WE", "ACDEFGH", "L"]
    paths = [_write_shard(tmp_path, rank, without=without) for rank in range(shards)]
    with pytest.raises(ShardError, match="none of 4 sequences could be embedded: .* at fault"):
        _merge(tmp_path, index, paths)
    assert not (tmp_path / "embeddings.h5").exists()


def test_one_sequence_that_failed_alone_is_merged(tmp_path):
    index = _index(tmp_path, ["MKV", "mkv*"], 1)
    summary = _merge(tmp_path, index, [_write_shard(tmp_path, 0, without=["MKV"])])
    assert (summary.sequences, len(summary.quarantined)) == (0, 1)


def test_a_sequence_that_is_embedded_after_all_is_merged_anew(tmp_path):
    index = _index(tmp_path, SEQUENCES, 1)
    assert _merge(tmp_path, index, [_write_shard(tmp_path, 0, without=["WE"])]).sequences == 5
    again = _merge(tmp_path, index, [_write_shard(tmp_path, 0, without=["WE"])])
    assert again.relinked and again.quarantined == {digest(b"WE"): REASON}
    assert _merge(tmp_path, index, [_write_shard(tmp_path, 0)]).sequences == 7
    _check(tmp_path / "embeddings.h5", SEQUENCES)


def test_a_missing_sequence_is_told_by_its_row_in_the_index(tmp_path):
    index, shards = _prepare(tmp_path, ["MJ", "WE", "J", "MKV", "L"], world_size=1)
    _write_shard(tmp_path, 0, keep=slice(2, None))
    with pytest.raises(ShardError, match=f"^{index}: 2 of its 3 .* first in row 1,.*again"):
        _merge(tmp_path, index, shards)


def test_a_flipped_bit_in_a_reason_is_noticed(tmp_path):
    index, shards = _prepare(tmp_path, ["MKV", "MJ", "WE"])
    content = bytearray(index.read_bytes())
    content[content.index(b"residue 'J'") + 9] ^= 1
    index.write_bytes(content)
    with pytest.raises(IndexFormatError, match=f"^{index}: .*run again"):
        _merge(tmp_path, index, shards)
    assert not (tmp_path / "embeddings.h5").exists()


@pytest.mark.parametrize("change", ["one more", "one less", "another reason"])
def test_an_index_of_other_exclusions_than_its_fingerprint_is_noticed(tmp_path, change):
    index, shards = _prepare(tmp_path, ["MKV", "MJ", "WE", "MKV"])
    table, metadata = pq.read_table(index), read_metadata(index, "index")
    reasons = table["excluded"].to_pylist()
    place = 3 if change == "one more" else 1
    reasons[place] = None if change == "one less" else "other"
    columns = [*table.columns[:7], pa.array(reasons, pa.string())]
    schema = INDEX_SCHEMA.with_metadata(metadata)
    pq.write_table(pa.table(columns, schema=schema), index)
    for call in (
        lambda: _merge(tmp_path, index, shards),
        lambda: write_quarantine(index, tmp_path / "quarantine.tsv", {}),
    ):
        with pytest.raises((IndexFormatError, ShardError)):
            call()
    assert not (tmp_path / "embeddings.h5").exists()
    assert not (tmp_path / "quarantine.tsv").exists()


def test_windowed_rows_are_counted(tmp_path):
    index, shards = _prepare(tmp_path, ["MKV", "WE", "MKV"], world_size=1)
    with h5py.File(shards[0], "r+") as file:
        file["flags"][:] = [WINDOWED, TRUNCATED]
    seal(shards[0])
    summary = _merge(tmp_path, index, shards)
    assert (summary.windowed, summary.truncated) == (2, 1)
    assert _read(tmp_path / "embeddings.h5")["flags"].tolist() == [1, 2, 1]


def test_truncated_duplicates_count_each(tmp_path):
    index, shards = _prepare(tmp_path, ["ACDEFG", "ACDEFG", "M"])
    assert _merge(tmp_path, index, shards).truncated == 2


def test_more_shards_than_sequences(tmp_path):
    index, shards = _prepare(tmp_path, ["MKV", "MKV", "W"], world_size=5)
    with open_embeddings(shards[4]) as empty:
        assert (empty.count, empty.width) == (0, WIDTH)
    _merge(tmp_path, index, shards)
    _check(tmp_path / "embeddings.h5", ["MKV", "MKV", "W"])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text("ACDEFGHIJL", min_size=1, max_size=6), min_size=1, max_size=30),
    st.lists(st.integers(0, 29), max_size=20),
    st.integers(1, 5),
    st.integers(1, 7),
)
def test_any_input_merges(sequences, again, world_size, slab_rows):
    sequences = sequences + [sequences[place % len(sequences)] for place in again] + ["A"]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqembed.results.reader.SLAB_ROWS", slab_rows)
        folder = Path(name)
        summary = _merge(folder, *_prepare(folder, sequences, world_size, tokens=True))
        _check(folder / "embeddings.h5", sequences)
        _check_token_rows(folder / "embeddings.h5", sequences)
    kept = [sequence for sequence in sequences if "J" not in sequence]
    assert (summary.sequences, summary.distinct) == (len(kept), len(set(kept)))


def test_the_merged_file_says_what_it_is(tmp_path):
    index, shards = _prepare(tmp_path)
    _merge(tmp_path, index, shards)
    with open_embeddings(tmp_path / "embeddings.h5") as file:
        found = file.attributes
    assert found.pop("created") and found.pop("package_versions")
    assert found == {
        "format_version": "1",
        "kind": "embeddings",
        "model": "toy",
        "weights_sha256": "ef" * 32,
        "layer": 6,
        "recipe_fingerprint": RECIPE,
        "index_fingerprint": read_metadata(index, "index")["fingerprint"],
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"world_size": 3}, "world_size is 3, not 2"),
        ({"rank": 0}, "rank is 0, not 1"),
        ({"width": WIDTH + 1}, f"width is {WIDTH + 1}, not {WIDTH}"),
        ({"storage": "float16"}, "storage is 'float16', not 'float32'"),
        ({"kind": "embeddings"}, "kind is 'embeddings', not 'shard'"),
        ({"recipe_fingerprint": OTHER_RECIPE}, f"recipe_fingerprint is '{OTHER_RECIPE}', not"),
    ],
)
def test_a_shard_that_does_not_belong_is_named(tmp_path, changes, told):
    index, shards = _prepare(tmp_path)
    _write_shard(tmp_path, 1, **changes)
    with pytest.raises(ShardError, match=f"^{shards[1]}: {told}") as caught:
        _merge(tmp_path, index, shards)
    assert "run again" in str(caught.value)
    assert not (tmp_path / "embeddings.h5").exists()


def test_shards_in_another_order_are_refused(tmp_path):
    index, shards = _prepare(tmp_path)
    with pytest.raises(ShardError, match=f"^{shards[1]}: rank is 1, not 0"):
        _merge(tmp_path, index, shards[::-1])
    with pytest.raises(ShardError, match=f"^{shards[0]}: world_size is 2, not 1"):
        _merge(tmp_path, index, shards[:1])


@pytest.mark.parametrize("keep", [slice(1, None), slice(0)])
def test_a_missing_sequence_is_told(tmp_path, keep):
    index, shards = _prepare(tmp_path, ["WE", "MKV", "WE", "L"], world_size=1)
    _write_shard(tmp_path, 0, keep=keep)
    count = 2 if keep.start else 4
    with pytest.raises(ShardError, match=f"^{index}: {count} of its 4 .* first in row 0,.*again"):
        _merge(tmp_path, index, shards)


def test_a_row_of_another_length_is_told(tmp_path):
    index, shards = _prepare(tmp_path, world_size=1)
    with open_embeddings(shards[0]) as shard:
        lengths, digests, own = shard.lengths(), shard.digests(), shard.attributes
    _write_rows(shards[0], lengths + (lengths == 1), digests, **own)
    with pytest.raises(ShardError, match="1 of its 7 sequences, the first in row 5"):
        _merge(tmp_path, index, shards)


def test_rows_of_no_sequence_are_told(tmp_path):
    index, shards = _prepare(tmp_path)
    kept = shutil.copy(index, tmp_path / "kept.parquet")
    _prepare(tmp_path, [*SEQUENCES, "WWW", "YYY"])
    with pytest.raises(ShardError, match=f"^{shards[0].parent}: 2 rows .* no sequence of {kept}"):
        _merge(tmp_path, kept, shards)


def test_a_damaged_shard_is_named(tmp_path):
    index, shards = _prepare(tmp_path)
    _damage(shards[1])
    with pytest.raises(ShardError, match=f"^{shards[1]}: damaged"):
        _merge(tmp_path, index, shards)


@pytest.mark.parametrize("bit", [0x80, 0x01])
def test_an_index_with_a_flipped_bit_in_an_id_is_named(tmp_path, bit):
    index, shards = _prepare(tmp_path)
    start = index.read_bytes().index(b"s0")
    content = bytearray(index.read_bytes())
    content[start] ^= bit
    index.write_bytes(content)
    with pytest.raises(IndexFormatError, match=f"^{index}: .*run again"):
        _merge(tmp_path, index, shards)
    assert not (tmp_path / "embeddings.h5").exists()


def test_the_same_result_is_linked_from_the_store(tmp_path):
    index, shards = _prepare(tmp_path)
    first = _merge(tmp_path, index, shards)
    (tmp_path / "embeddings.h5").unlink()
    # Other rows under the same name: were they read, they would be in the result.
    for rank in range(2):
        _write_shard(tmp_path, rank, shift=1)
    inode = (tmp_path / STORED).stat().st_ino
    again = _merge(tmp_path, index, shards)
    assert (first.relinked, again.relinked) == (False, True)
    assert {**vars(again), "relinked": False} == vars(first)
    assert (tmp_path / "embeddings.h5").stat().st_ino == inode
    _check(tmp_path / "embeddings.h5", SEQUENCES)


@pytest.mark.parametrize("change", ["ids", "order", "recipe"])
def test_another_result_is_merged_anew(tmp_path, change):
    _merge(tmp_path, *_prepare(tmp_path))
    before = (tmp_path / STORED).read_bytes()
    sequences = SEQUENCES[::-1] if change == "order" else SEQUENCES
    index = _index(tmp_path, sequences, 2, prefix="t" if change == "ids" else "s")
    recipe = OTHER_RECIPE if change == "recipe" else RECIPE
    shards = [_write_shard(tmp_path, r, shift=1, recipe_fingerprint=recipe) for r in range(2)]
    assert not _merge(tmp_path, index, shards).relinked
    _check(tmp_path / "embeddings.h5", sequences, "t" if change == "ids" else "s", shift=1)
    kept = tmp_path / "store" / f"{recipe[:12]}.h5"
    assert os.path.samefile(kept, tmp_path / "embeddings.h5")
    assert (change == "recipe") == ((tmp_path / STORED).read_bytes() == before)


def test_recipes_of_one_beginning_are_told_apart(tmp_path):
    _merge(tmp_path, *_prepare(tmp_path))
    index = tmp_path / "index.parquet"
    near = RECIPE[:12] + OTHER_RECIPE[12:]
    shards = [_write_shard(tmp_path, r, shift=1, recipe_fingerprint=near) for r in range(2)]
    assert not _merge(tmp_path, index, shards).relinked
    _check(tmp_path / "embeddings.h5", SEQUENCES, shift=1)


def test_a_damaged_store_is_warned_of_and_replaced(tmp_path, caplog):
    index, shards = _prepare(tmp_path)
    _merge(tmp_path, index, shards)
    (tmp_path / "embeddings.h5").unlink()
    _damage(tmp_path / STORED)
    assert not _merge(tmp_path, index, shards).relinked
    assert re.search(f"store is not used: {tmp_path / STORED}: damaged", caplog.text)
    _check(tmp_path / "embeddings.h5", SEQUENCES)
    assert os.path.samefile(tmp_path / "embeddings.h5", tmp_path / STORED)


def test_checkpoints_of_this_recipe_alone_are_cleared(tmp_path):
    own, other = _checkpoints(tmp_path, RECIPE, OTHER_RECIPE)
    index, shards = _prepare(tmp_path)
    _merge(tmp_path, index, shards)
    assert not own.exists()
    assert (other / "shard_0/batch_00000.safetensors").read_bytes() == b"rows"
    _checkpoints(tmp_path, RECIPE)
    assert _merge(tmp_path, index, shards).relinked
    assert list((tmp_path / "checkpoints").iterdir()) == [other]


def test_what_killed_writers_left_goes_and_nothing_else(tmp_path):
    index, shards = _prepare(tmp_path)
    name = f".x.h5.{'0123456789abcdef' * 2}.tmp"
    left = [tmp_path / where / name for where in ("", "shards", "store", "recipes")]
    others = [tmp_path / ".notes.tmp", tmp_path / name[1:], tmp_path / "index" / name]
    for path in [*left, *others]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    _merge(tmp_path, index, shards)
    assert [path.exists() for path in [*left, *others]] == [False] * 4 + [True] * 3


def test_what_is_no_folder_of_checkpoints_is_left(tmp_path):
    (own,) = _checkpoints(tmp_path, RECIPE)
    (tmp_path / "outside").mkdir()
    link, file = own.with_name(f"{RECIPE[:12]}-link"), own.with_name(f"{RECIPE[:12]}-file")
    link.symlink_to(tmp_path / "outside")
    file.touch()
    remove_checkpoints(own.parent, RECIPE)
    assert sorted(own.parent.iterdir()) == [file, link]


def test_an_empty_folder_of_checkpoints_goes(tmp_path):
    _checkpoints(tmp_path, RECIPE)
    remove_checkpoints(tmp_path / "checkpoints", RECIPE)
    assert not (tmp_path / "checkpoints").exists()
    remove_checkpoints(tmp_path / "checkpoints", RECIPE)


@pytest.mark.parametrize(
    ("failure", "error"),
    [("damage", ShardError), ("missing", ShardError), ("cut", IndexFormatError)],
)
def test_a_failed_merge_leaves_checkpoints_and_store_alone(tmp_path, monkeypatch, failure, error):
    _merge(tmp_path, *_prepare(tmp_path))
    (own,) = _checkpoints(tmp_path, RECIPE)
    before = (tmp_path / STORED).read_bytes()
    index, shards = _prepare(tmp_path, [*SEQUENCES, "WWW"])
    if failure == "damage":
        _damage(shards[0])
    elif failure == "missing":
        _write_shard(tmp_path, 0, keep=slice(1, None))
    else:
        monkeypatch.setattr(merge_module, "slab_bounds", lambda *_: iter([(0, 3)]))
    with pytest.raises(error):
        _merge(tmp_path, index, shards)
    assert (own / "shard_0/batch_00000.safetensors").read_bytes() == b"rows"
    assert (tmp_path / STORED).read_bytes() == before
    assert [path.name for path in (tmp_path / "store").iterdir()] == [Path(STORED).name]
    _check(tmp_path / "embeddings.h5", SEQUENCES)


def test_checkpoints_stay_until_the_store_has_the_result(tmp_path):
    index, shards = _prepare(tmp_path)
    (own,) = _checkpoints(tmp_path, RECIPE)
    (tmp_path / "store").touch()  # A file: no folder can be made there.
    with pytest.raises(FileExistsError):
        _merge(tmp_path, index, shards)
    assert (own / "shard_0/batch_00000.safetensors").read_bytes() == b"rows"


# What is merged first loads what is loaded once, so that it is not counted.
MERGE_TWICE = """
import logging, sys
from pathlib import Path
from seqembed.results import reader as shards
from seqembed.results.merge import merge
shards.SLAB_ROWS = 4096
for folder in map(Path, sys.argv[1:]):
    print("ready", flush=True)
    sys.stdin.readline()
    paths = [folder / f"shards/shard_{rank}.h5" for rank in range(2)]
    merge(folder / "index.parquet", paths, folder / "embeddings.h5", logging.getLogger())
"""


def _private_bytes(pid: int) -> int:
    """Memory that is a process's own: pages of mapped files are the system's to take back."""
    status = Path(f"/proc/{pid}/status").read_text()
    # A process that has just ended has none.
    return sum(1024 * int(size) for size in re.findall(r"RssAnon:\s+(\d+)", status))


def _peak_growth(small: Path, folder: Path) -> int:
    """Bytes that a merge in a process of its own takes, slabs of 4,096 rows included."""
    # Arrow's own allocators keep what was given back, now more, now less.
    own = {"PYTHONPATH": str(Path(merge_module.__file__).parents[2])}
    own["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    with subprocess.Popen(
        [sys.executable, "-c", MERGE_TWICE, str(small), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | own,
    ) as process:
        process.stdout.readline()
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        before = peak = _private_bytes(process.pid)
        process.stdin.write(b"\n")
        process.stdin.close()
        while process.poll() is None:
            peak = max(peak, _private_bytes(process.pid))
            time.sleep(0.002)
    assert process.returncode == 0
    return peak - before


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_is_a_few_bytes_a_sequence_whatever_the_width(tmp_path):
    small, count = tmp_path / "small", 200_000
    small.mkdir()
    _prepare(small)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
    residues = letters[np.arange(count)[:, None] // 20 ** np.arange(5) % 20]
    index = _write_index(tmp_path, [row.tobytes().decode() for row in residues])
    lengths, digests = read_lengths_and_digests(index)
    growth = {}
    for width in (8, 64):
        for rank in range(2):
            own = {"width": width, "rank": rank, "world_size": 2}
            path = tmp_path / f"shards/shard_{rank}.h5"
            _write_rows(path, lengths[rank::2], digests[rank::2], **own)
        growth[width] = _peak_growth(small, tmp_path)
        with open_embeddings(tmp_path / "embeddings.h5") as file:
            assert file.rows.shape == (count, width)
        for folder in (small, tmp_path):
            shutil.rmtree(folder / "store")
    # About 125 as measured; the design allows 500.
    assert growth[8] < 250 * count
    # A slab of the wider file is 1 MB; all its rows would be 45 MB more than the narrower's.
    assert growth[64] - growth[8] < 10_000_000


def test_shards_of_a_larger_world_are_removed(tmp_path):
    index, shards = _prepare(tmp_path)
    stale = shards[0].with_name("shard_7.h5")
    stale.write_bytes(b"of an earlier split")
    _merge(tmp_path, index, shards)
    assert not stale.exists()
    assert all(path.exists() for path in shards)
