"""The merge of shards into embeddings.h5."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken_files import flip
from hypothesis import example, given, settings
from hypothesis import strategies as st
from known_files import (
    WIDTH,
    flags_of,
    rows_of,
    token_rows_of,
    write_indices,
    write_known_file,
    write_known_shard,
)
from worker_runs import SCRIPTS

from seqembed.checkpoints.merge import Summary, merge, remove_checkpoints, remove_merged
from seqembed.errors import IndexFormatError, ShardError
from seqembed.index.parquet import read_metadata
from seqembed.index.reader import read_lengths_and_digests, read_shard_index
from seqembed.index.sources import Source, Sources, write_sources
from seqembed.results import writer as writer_module
from seqembed.results.quarantine import write_quarantine
from seqembed.results.reader import open_embeddings
from seqembed.results.seal import seal
from seqembed.results.writer import write_embeddings
from seqembed.storage.digests import digest
from seqembed.storage.locks import lock_folder

RECIPE = "ab" * 32
OTHER_RECIPE = "cd" * 32
NEAR_RECIPE = RECIPE[:12] + OTHER_RECIPE[12:]
STORED = f"store/{RECIPE[:12]}.h5"
REASON = "killed the worker"
LOGGER = logging.getLogger("test_merge")
SEQUENCES = ["MKV", "WE", "MKV", "ACDEFGH", "WE", "L", "mkv*"]
OWN = {"model": "toy", "weights_sha256": "ef" * 32, "layer": 6}
OWN |= {"recipe_fingerprint": RECIPE}


def _write_shard(folder: Path, place: int, *, without: Sequence[str] = (), **changes: Any) -> Path:
    """Write a shard; without: sequences that could not be embedded."""
    return write_known_shard(folder, place, failed=dict.fromkeys(without, REASON), **OWN | changes)


def _prepare(
    folder: Path,
    sequences: Mapping[str, str] | Sequence[str] = SEQUENCES,
    world_size: int = 2,
    **changes: Any,
) -> tuple[Path, list[Path]]:
    index = write_indices(folder, sequences, shards=world_size)
    return index, [_write_shard(folder, rank, **changes) for rank in range(world_size)]


def _merge(folder: Path, index: Path, shards: Sequence[Path]) -> Summary:
    return merge(index, shards, folder / "embeddings.h5", LOGGER)


def _read_ids(path: Path) -> list[str]:
    with h5py.File(path) as file:
        ids: list[str] = file["sequence_ids"].asstr()[:].tolist()
        return ids


def _check(
    path: Path,
    sequences: Sequence[str],
    *,
    prefix: str = "s",
    shift: int = 0,
    storage: str = "float32",
    tokens: bool = False,
) -> None:
    """Each id that has a row once, in order, with the rows of its own sequence."""
    kept = {f"{prefix}{n}": s for n, s in enumerate(sequences) if "J" not in s}
    residues = [sequence.upper().removesuffix("*").encode() for sequence in kept.values()]
    digests = np.array([list(digest(r)) for r in residues], np.uint8).reshape(-1, 16)
    lengths = [len(r) for r in residues]
    assert _read_ids(path) == list(kept)
    with open_embeddings(path) as file:
        assert file.lengths().tolist() == lengths
        np.testing.assert_array_equal(file.flags(), flags_of(digests))
        np.testing.assert_array_equal(file.digests(), digests)
        assert file.rows.dtype == storage
        np.testing.assert_array_equal(file.rows, rows_of(digests, storage) + np.float16(shift))
        assert (file.residues is not None) == tokens
        if tokens:
            assert file.offsets().tolist() == [0, *np.cumsum(lengths).tolist()]
            pairs = zip(digests, lengths, strict=True)
            expected = [token_rows_of(*pair, storage) for pair in pairs]
            assert file.residues.dtype == storage
            np.testing.assert_array_equal(file.residues, np.concatenate(expected))


def _checkpoints(folder: Path, *recipes: str) -> list[Path]:
    paths = [folder / "checkpoints" / f"{recipe[:12]}-{'0' * 12}" for recipe in recipes]
    for path in paths:
        (path / "shard_0").mkdir(parents=True)
        (path / "shard_0/batch_00000.safetensors").write_bytes(b"rows")
    return paths


def test_more_shards_than_files_may_be_open_at_first(tmp_path):
    sequences = ["M" + "K" * number for number in range(40)]
    index, shards = _prepare(tmp_path, sequences, world_size=40, tokens=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        assert _merge(tmp_path, index, shards).sequences == 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    _check(tmp_path / "embeddings.h5", sequences, tokens=True)


@pytest.mark.parametrize(
    ("world_size", "storage", "tokens"),
    [(1, "float32", False), (2, "float32", True), (6, "float16", True)],
)
def test_every_id_gets_its_rows_in_input_order(tmp_path, world_size, storage, tokens, monkeypatch):
    # Small parts: those of one sequence come in several, and shards beyond the fourth are empty.
    monkeypatch.setattr("seqembed.results.rows.PART_BYTES", 2 * WIDTH * 4)
    monkeypatch.setattr("seqembed.results.reader.SLAB_ROWS", 3)
    how = {"storage": storage, "tokens": tokens}
    index, shards = _prepare(tmp_path, world_size=world_size, per_residue=tokens, **how)
    expected = {"sequences": 7, "distinct": 4, "dimensions": WIDTH, "windowed": 6, "truncated": 4}
    expected["recipe"] = RECIPE
    for relinked in (False, True):
        summary = _merge(tmp_path, index, shards)
        assert summary == Summary(**expected, relinked=relinked, quarantined={})
        _check(tmp_path / "embeddings.h5", SEQUENCES, **how)
        assert os.path.samefile(tmp_path / "embeddings.h5", tmp_path / STORED)
        (tmp_path / "embeddings.h5").unlink()
        # Other rows under the same name: were they read, they would be in the result.
        for rank in range(world_size):
            _write_shard(tmp_path, rank, shift=1, per_residue=tokens, **how)


PROTEINS = st.lists(st.text("ACDEFGHIJL", min_size=1, max_size=6), min_size=1, max_size=30)


@settings(max_examples=15, deadline=None)
@given(PROTEINS, st.lists(st.integers(0, 29), max_size=20), st.integers(1, 5), st.integers(1, 7))
@example(["MJ", "JJ", "MKV", "WE", "MKV"], [], 2, 2)
@example(["MKV", "WE", "MKV", "JJ", "MJ"], [], 2, 3)
@example(["J", "JJ", "MJ", "L", "J"], [], 2, 1)
def test_each_id_has_its_rows_or_a_reason(sequences, again, world_size, slab_rows):
    sequences = sequences + [sequences[place % len(sequences)] for place in again]
    if all("J" in sequence for sequence in sequences):
        sequences = [*sequences, "A"]
    kept = [sequence for sequence in sequences if "J" not in sequence]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqembed.results.reader.SLAB_ROWS", slab_rows)
        folder = Path(name)
        index, shards = _prepare(folder, sequences, world_size, tokens=True)
        summary = _merge(folder, index, shards)
        _check(folder / "embeddings.h5", sequences, tokens=True)
        left_out = write_quarantine(index, folder / "quarantine.tsv", {})
        # The same again is in the store.
        again = _merge(folder, index, shards)
        assert again.relinked and {**vars(again), "relinked": False} == vars(summary)
    assert (summary.sequences, summary.distinct) == (len(kept), len(set(kept)))
    assert left_out + summary.sequences == len(sequences)


def test_an_index_that_excludes_other_sequences_is_merged_anew(tmp_path):
    """The ids and sequences are those of before, and some are let pass that were not."""
    sequences = ["MKV", "MJ", "WE"]
    _merge(tmp_path, *_prepare(tmp_path, sequences))
    index = write_indices(tmp_path, sequences, shards=2, invalid="unk")
    summary = _merge(tmp_path, index, [_write_shard(tmp_path, rank) for rank in range(2)])
    assert (summary.sequences, summary.relinked) == (3, False)
    assert _read_ids(tmp_path / "embeddings.h5") == ["s0", "s1", "s2"]


@pytest.mark.parametrize(
    ("without", "tokens"), [(["L", "WE"], True), (["MKV", "WE", "ACDEFGH"], False)]
)
def test_what_could_not_be_embedded_is_left_out_under_all_its_ids(tmp_path, without, tokens):
    summary = _merge(tmp_path, *_prepare(tmp_path, without=without, tokens=tokens))
    names = {f"s{n}": s.upper().rstrip("*") for n, s in enumerate(SEQUENCES)}
    kept = [name for name, residues in names.items() if residues not in without]
    expected = dict.fromkeys(map(digest, (s.encode() for s in without)), REASON)
    assert (summary.sequences, summary.quarantined) == (len(kept), expected)
    with open_embeddings(tmp_path / "embeddings.h5") as file:
        assert file.quarantine() == expected
        np.testing.assert_array_equal(file.rows, rows_of(file.digests()))
    assert _read_ids(tmp_path / "embeddings.h5") == kept


def test_where_all_sequences_failed_nothing_is_merged_unless_there_is_but_one(tmp_path):
    index, shards = _prepare(tmp_path, without=["MKV", "WE", "ACDEFGH", "L"])
    with pytest.raises(ShardError, match="none of 4 sequences could be embedded"):
        _merge(tmp_path, index, shards)
    assert not (tmp_path / "embeddings.h5").exists()
    summary = _merge(tmp_path, *_prepare(tmp_path, ["MKV", "mkv*"], 1, without=["MKV"]))
    assert (summary.sequences, len(summary.quarantined)) == (0, 1)


def test_a_sequence_that_is_embedded_after_all_is_merged_anew(tmp_path):
    index, shards = _prepare(tmp_path, world_size=1, without=["WE"])
    assert _merge(tmp_path, index, shards).sequences == 5
    again = _merge(tmp_path, index, shards)
    assert again.relinked and again.quarantined == {digest(b"WE"): REASON}
    assert _merge(tmp_path, index, [_write_shard(tmp_path, 0)]).sequences == 7
    _check(tmp_path / "embeddings.h5", SEQUENCES)


@pytest.mark.parametrize(
    ("sequences", "keep", "length", "found"),
    [
        (["WE", "MKV", "WE", "L"], slice(1, None), None, "2 of its 4 .* row 0,"),
        (["WE", "MKV", "WE", "L"], slice(0), None, "4 of its 4 .* row 0,"),
        (["MJ", "WE", "J", "MKV", "L"], slice(2, None), None, "2 of its 3 .* row 1,"),
        (SEQUENCES, slice(None), 2, "1 of its 7 .* row 5,"),
    ],
)
def test_a_missing_row_and_one_of_another_length_are_named(
    tmp_path, sequences, keep, length, found
):
    index, shards = _prepare(tmp_path, sequences, 1, keep=keep)
    if length:
        with h5py.File(shards[0], "r+") as file:
            file["lengths"][3] = length
        seal(shards[0])
    with pytest.raises(ShardError, match=f"^{index}: {found}.*run again"):
        _merge(tmp_path, index, shards)


def test_rows_of_no_sequence_are_refused(tmp_path):
    index, shards = _prepare(tmp_path)
    kept = shutil.copy(index, tmp_path / "kept.parquet")
    _prepare(tmp_path, [*SEQUENCES, "WWW", "YYY"])
    with pytest.raises(ShardError, match=f"^{shards[0].parent}: 2 rows .*{kept}"):
        _merge(tmp_path, kept, shards)


@pytest.mark.parametrize(
    ("text", "place", "bit"), [(b"residue 'J'", 9, 1), (b"s0", 0, 0x80), (b"s0", 0, 1)]
)
def test_an_index_with_a_flipped_bit_is_named(tmp_path, text, place, bit):
    index, shards = _prepare(tmp_path, ["MKV", "MJ", "WE"])
    flip(index, index.read_bytes().index(text) + place, bit)
    with pytest.raises(IndexFormatError, match=f"^{index}: .*run again"):
        _merge(tmp_path, index, shards)
    assert not (tmp_path / "embeddings.h5").exists()


@pytest.mark.parametrize(("row", "reason"), [(3, "other"), (1, None), (1, "other")])
def test_an_index_that_does_not_exclude_what_its_fingerprint_states_is_refused(
    row, reason, tmp_path
):
    index, shards = _prepare(tmp_path, ["MKV", "MJ", "WE", "MKV"])
    table, metadata = pq.read_table(index), read_metadata(index, "index")
    reasons = table["excluded"].to_pylist()
    reasons[row] = reason
    changed = table.set_column(7, table.schema.field("excluded"), pa.array(reasons, pa.string()))
    pq.write_table(changed.replace_schema_metadata(metadata), index)
    with pytest.raises((IndexFormatError, ShardError)):
        _merge(tmp_path, index, shards)
    with pytest.raises(IndexFormatError):
        write_quarantine(index, tmp_path / "quarantine.tsv", {})
    assert not [*tmp_path.glob("embeddings.h5"), *tmp_path.glob("quarantine.tsv")]


def test_the_merged_file_says_what_it_is(tmp_path):
    index, shards = _prepare(tmp_path)
    _merge(tmp_path, index, shards)
    own = {"kind": "embeddings", "index_fingerprint": read_metadata(index, "index")["fingerprint"]}
    with open_embeddings(tmp_path / "embeddings.h5") as file:
        found = file.attributes
    assert found.pop("created") and found.pop("package_versions")
    assert found == OWN | own | {"format_version": "1", "storage": "float32"}


def test_the_merged_file_names_the_gpus_of_all_shards(tmp_path):
    index = write_indices(tmp_path, SEQUENCES, shards=3)
    names = [{"device_name": "A"}, {}, {"device_name": "B, A"}]
    shards = [_write_shard(tmp_path, rank, **name) for rank, name in enumerate(names)]
    _merge(tmp_path, index, shards)
    with open_embeddings(tmp_path / "embeddings.h5") as file:
        assert file.attributes["device_name"] == "A, B"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"world_size": 3}, "world_size is 3, not 2"),
        ({"rank": 0}, "rank is 0, not 1"),
        ({"width": WIDTH + 1}, f"width is {WIDTH + 1}, not {WIDTH}"),
        ({"storage": "float16"}, "storage is 'float16', not 'float32'"),
        ({"tokens": True}, "token rows is True, not False"),
        ({"kind": "embeddings"}, "kind is 'embeddings', not 'shard'"),
        ({"recipe_fingerprint": OTHER_RECIPE}, f"recipe_fingerprint is '{OTHER_RECIPE}', not"),
    ],
)
def test_a_shard_that_does_not_belong_is_named(tmp_path, changes, told):
    index, shards = _prepare(tmp_path)
    _write_shard(tmp_path, 1, **changes)
    with pytest.raises(ShardError, match=f"^{shards[1]}: {told}.*run again"):
        _merge(tmp_path, index, shards)
    assert not (tmp_path / "embeddings.h5").exists()


@pytest.mark.parametrize(
    ("prefix", "sequences", "recipe"),
    [
        ("t", SEQUENCES, RECIPE),
        ("s", SEQUENCES[::-1], RECIPE),
        ("s", SEQUENCES, OTHER_RECIPE),
        ("s", SEQUENCES, NEAR_RECIPE),
    ],
    ids=["ids", "order", "recipe", "recipe of the same beginning"],
)
def test_another_result_is_merged_anew(tmp_path, prefix, sequences, recipe):
    _merge(tmp_path, *_prepare(tmp_path))
    before = (tmp_path / STORED).read_bytes()
    named = {f"{prefix}{number}": sequence for number, sequence in enumerate(sequences)}
    given = _prepare(tmp_path, named, shift=1, recipe_fingerprint=recipe)
    assert not _merge(tmp_path, *given).relinked
    _check(tmp_path / "embeddings.h5", sequences, prefix=prefix, shift=1)
    kept = tmp_path / "store" / f"{recipe[:12]}.h5"
    assert os.path.samefile(kept, tmp_path / "embeddings.h5")
    assert (recipe == OTHER_RECIPE) == ((tmp_path / STORED).read_bytes() == before)


def test_a_damaged_store_is_warned_of_and_replaced(tmp_path, caplog):
    index, shards = _prepare(tmp_path)
    _merge(tmp_path, index, shards)
    (tmp_path / "embeddings.h5").unlink()
    flip(tmp_path / STORED)
    assert not _merge(tmp_path, index, shards).relinked
    assert re.search(
        f"an earlier run's result is not used, .*: {tmp_path / STORED}: damaged", caplog.text
    )
    _check(tmp_path / "embeddings.h5", SEQUENCES)
    assert os.path.samefile(tmp_path / "embeddings.h5", tmp_path / STORED)


def test_shards_and_checkpoints_of_this_recipe_alone_are_removed_after_the_merge(tmp_path):
    own, other = _checkpoints(tmp_path, RECIPE, OTHER_RECIPE)
    index, shards = _prepare(tmp_path)
    summary = _merge(tmp_path, index, shards)
    # What is written after the merge may fail yet.
    assert own.exists() and all(path.exists() for path in shards)
    shards.append(shards[0].with_name("shard_7.h5"))
    others = [shards[0].with_name("notes.h5"), tmp_path / STORED, tmp_path / "embeddings.h5"]
    for path in (shards[-1], others[0]):
        path.touch()
    remove_merged(tmp_path, summary.recipe)
    assert not any(path.exists() for path in [own, *shards])
    assert all(path.exists() for path in others)
    assert (other / "shard_0/batch_00000.safetensors").read_bytes() == b"rows"
    remove_merged(tmp_path, summary.recipe)
    remove_merged(tmp_path / "none", summary.recipe)


def test_only_temporary_files_are_removed_by_the_merge(tmp_path):
    index, shards = _prepare(tmp_path)
    name = f".x.h5.{'0123456789abcdef' * 2}.tmp"
    left = [tmp_path / where / name for where in ("", "shards", "store", "recipes")]
    others = [tmp_path / ".notes.tmp", tmp_path / name[1:], tmp_path / "index" / name]
    others.append(shards[0].with_name("shard_7.h5"))
    for path in [*left, *others]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    _merge(tmp_path, index, shards)
    assert [path.exists() for path in [*left, *others, *shards]] == [False] * 4 + [True] * 6


def test_of_checkpoints_only_folders_are_removed_and_the_empty_one_above(tmp_path):
    (own,) = _checkpoints(tmp_path, RECIPE)
    others = [own.with_name(f"{RECIPE[:12]}-{kind}") for kind in ("file", "link")]
    others[0].touch()
    others[1].symlink_to(tmp_path)
    remove_checkpoints(tmp_path, RECIPE)
    assert sorted(own.parent.iterdir()) == others
    for path in others:
        path.unlink()
    for _ in range(2):
        remove_checkpoints(tmp_path, RECIPE)
        assert not own.parent.exists()


def test_the_checkpoints_of_a_worker_that_is_at_work_stay(tmp_path):
    (own,) = _checkpoints(tmp_path, RECIPE)
    other = own.with_name(f"{RECIPE[:12]}-other")
    with lock_folder(other, lambda: None, logging.getLogger("test")):
        remove_checkpoints(tmp_path, RECIPE)
        assert [*own.parent.iterdir()] == [other]
    remove_checkpoints(tmp_path, RECIPE)
    assert not own.parent.exists()


def test_without_locks_only_checkpoints_of_the_present_shards_are_removed(tmp_path, monkeypatch):
    """A worker of an earlier split may be at work in any other folder."""
    _prepare(tmp_path)
    part = read_shard_index(tmp_path / "index/shard_1.parquet")
    names = {"own": part.fingerprint[:12], "found": "f" * 12, "earlier": "0" * 12}
    folders = {kind: tmp_path / f"checkpoints/{RECIPE[:12]}-{k}" for kind, k in names.items()}
    for path in folders.values():
        (path / "shard_0").mkdir(parents=True)
    source = Source(path=str(folders["found"] / "shard_0"), seal="", recipe=RECIPE)
    write_sources(tmp_path / "index", Sources(sources=[source]))

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    sources = (tmp_path / "index/reuse.json").read_bytes()
    for content, expected in ((sources[:-9], [*names]), (sources, ["earlier"])):
        (tmp_path / "index/reuse.json").write_bytes(content)
        remove_checkpoints(tmp_path, RECIPE)
        assert [kind for kind, path in folders.items() if path.exists()] == expected


def _run_entry(folder: Path, index: Path, shards: Sequence[Path]) -> list[str]:
    """Run merge.py, which has to succeed; return the lines of its log."""
    where = {"--output": folder / "embeddings.h5", "--quarantine": folder / "quarantine.tsv"}
    words = [word for pair in where.items() for word in pair]
    command = [sys.executable, SCRIPTS / "merge.py", "--index", index, "--shards", *shards, *words]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr.splitlines()


def test_what_cannot_be_removed_does_not_fail_a_merge_that_has_written_all(tmp_path):
    index, shards = _prepare(tmp_path)
    # No folder can be removed as if it were a shard.
    obstacle = tmp_path / "shards/shard_7.h5"
    obstacle.mkdir()
    assert re.search(
        f"the result is complete, but .*{obstacle}", _run_entry(tmp_path, index, shards)[-1]
    )
    _check(tmp_path / "embeddings.h5", SEQUENCES)
    assert (tmp_path / "quarantine.tsv").exists()


def test_damaged_lists_of_the_split_do_not_matter_at_the_end_of_the_merge(tmp_path):
    own, other = _checkpoints(tmp_path, RECIPE, OTHER_RECIPE)
    index, shards = _prepare(tmp_path)
    for name in ("reuse.json", "shard_0.parquet"):
        (tmp_path / "index" / name).write_bytes(b"damaged")
    last = _run_entry(tmp_path, index, shards)[-1]
    assert re.search("checkpoints that no shard needs take [0-9.]+ kB; clean.py lists them", last)
    assert other.exists() and not own.exists() and not any(path.exists() for path in shards)


@pytest.mark.parametrize("failure", ["damage", "missing", "cut"])
def test_a_failed_merge_leaves_checkpoints_and_store_alone(tmp_path, monkeypatch, failure):
    _merge(tmp_path, *_prepare(tmp_path))
    (own,) = _checkpoints(tmp_path, RECIPE)
    before = (tmp_path / STORED).read_bytes()
    index, shards = _prepare(tmp_path, [*SEQUENCES, "WWW"])
    place = shards[1] if failure == "damage" else index
    if failure == "damage":
        flip(shards[1])
    elif failure == "missing":
        _write_shard(tmp_path, 0, keep=slice(1, None))
    else:
        place = tmp_path / "embeddings.h5"
        monkeypatch.setattr(writer_module, "slab_bounds", lambda *_: iter([(0, 3)]))
    with pytest.raises(ShardError, match=f"^{place}: "):
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


# The small merge comes first and loads what is loaded once, so that it is not counted. Anonymous
# pages alone are: those of mapped files are the system's to take back.
MEASURE = """
import logging, re, sys, threading, time
from pathlib import Path
from seqembed.results import reader
from seqembed.storage import digests
from seqembed.checkpoints.merge import merge

def watch():
    while True:
        sizes.append(int(re.search("RssAnon: *(.*) kB", status.read_text())[1]))
        time.sleep(0.002)

reader.SLAB_ROWS, digests.FIND_AT_ONCE = 4096, 4096
sizes, status = [], Path("/proc/self/status")
for folder in map(Path, sys.argv[1:]):
    paths = [folder / f"shards/shard_{rank}.h5" for rank in range(2)]
    merge(folder / "index.parquet", paths, folder / "embeddings.h5", logging.getLogger())
    if not sizes:
        threading.Thread(target=watch, daemon=True).start()
        time.sleep(0.1)
print(1024 * (max(sizes) - sizes[0]))
"""


def _peak_growth(small: Path, folder: Path) -> int:
    """Bytes that a merge in a process of its own takes, slabs of 4,096 rows included."""
    # Arrow's own allocators keep what was given back, now more, now less.
    own = {"PYTHONPATH": str(SCRIPTS), "ARROW_DEFAULT_MEMORY_POOL": "system"}
    command = [sys.executable, "-c", MEASURE, small, folder]
    return int(subprocess.check_output(command, env=os.environ | own))


@pytest.mark.timing
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_is_a_few_bytes_a_sequence_whatever_the_width(tmp_path):
    small, count = tmp_path / "small", 200_000
    _prepare(small)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
    residues = letters[np.arange(count)[:, None] // 20 ** np.arange(5) % 20]
    index = write_indices(tmp_path, [row.tobytes().decode() for row in residues])
    lengths, digests = read_lengths_and_digests(index)
    growth = {}
    for width in (8, 64):
        for rank in range(2):
            own = OWN | {"kind": "shard", "width": width, "rank": rank, "world_size": 2}
            path = tmp_path / f"shards/shard_{rank}.h5"
            write_known_file(path, lengths[rank::2], digests[rank::2], **own)
        growth[width] = _peak_growth(small, tmp_path)
        with open_embeddings(tmp_path / "embeddings.h5") as file:
            assert file.rows.shape == (count, width)
        for folder in (small, tmp_path):
            shutil.rmtree(folder / "store")
    # About 125 as measured; the design allows 500.
    assert growth[8] < 250 * count
    # A slab of the wider file is 1 MB; all its rows would be 45 MB more than the narrower's.
    assert growth[64] - growth[8] < 10_000_000


@pytest.mark.timing
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_is_a_few_bytes_a_sequence_of_a_file_of_which_few_rows_are_used(tmp_path):
    small, count, ranks = tmp_path / "small", 500_000, range(2)
    _prepare(small)
    write_indices(tmp_path, SEQUENCES, shards=len(ranks))
    digests = np.random.default_rng(1).integers(0, 256, (count, 16), np.uint8)
    growth = {}
    for used in (0, 4):
        shards = [_write_shard(tmp_path, rank) for rank in ranks]
        for rank in ranks:
            part = read_shard_index(tmp_path / f"index/shard_{rank}.parquet")
            digests[count // 2 * rank + np.arange(len(part.digests))] = part.digests
        if used:
            old = tmp_path / "old.h5"
            lengths = np.ones(count, np.int64)
            write_known_file(old, lengths, digests, width=WIDTH, kind="embeddings", **OWN)
            for path in shards:
                _leave_to_other_file(path, old)
        growth[used] = _peak_growth(small, tmp_path)
        for folder in (small, tmp_path):
            shutil.rmtree(folder / "store")
    # 18 as measured: a digest and a flag are read, and an index is made of wanted rows alone.
    assert growth[4] - growth[0] < 25 * count


def _leave_to_other_file(shard: Path, other: Path) -> None:
    """Write a shard anew, without a row: all of them are in the other file."""
    with open_embeddings(shard) as file:
        attributes, digests = dict(file.attributes), file.digests()
    form = {"count": 0, "width": WIDTH, "storage": "float32", "attributes": attributes}
    write_embeddings(shard, **form, slabs=[], reused=(digests, [str(other)]))
