"""Checkpoints that no shard needs: they are listed, and removed only if that is asked for."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from known_files import write_indices
from worker_runs import SCRIPTS

from seqembed.checkpoints import unneeded
from seqembed.checkpoints.unneeded import count_freed, list_unneeded
from seqembed.index.parquet import read_metadata
from seqembed.index.reader import read_shard_index
from seqembed.index.sources import Source, Sources, write_sources
from seqembed.machine.words import format_bytes

RECIPE = "ab" * 32
BLOCK = 1 << 16


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A dataset of two shards, with their checkpoints, one that split found, and an old one."""
    folder = tmp_path / "results/mine"
    write_indices(folder, ["MKV", "WERT"], shards=2)
    own = [read_shard_index(folder / f"index/shard_{rank}.parquet").fingerprint for rank in (0, 1)]
    for name in (*(key[:12] for key in own), "found0000000", "old000000000"):
        shard = folder / f"checkpoints/{RECIPE[:12]}-{name}/shard_0"
        shard.mkdir(parents=True)
        (shard / "batch_00000.safetensors").write_bytes(bytes(BLOCK))
    found = folder / f"checkpoints/{RECIPE[:12]}-found0000000/shard_0"
    source = Source(path=str(found), seal="", recipe=RECIPE)
    write_sources(folder / "index", Sources(sources=[source]))
    return folder


def run(*words: object, code: int = 0) -> list[str]:
    """Run clean.py, which has to end with this code; return the lines of its log."""
    command = [sys.executable, SCRIPTS / "clean.py", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == code, ended.stderr
    return ended.stderr.splitlines()


def test_only_what_neither_a_shard_nor_split_needs_is_listed(dataset):
    assert [path.name for path in list_unneeded(dataset)] == [f"{RECIPE[:12]}-old000000000"]


def test_without_shards_nothing_is_listed(dataset):
    for path in dataset.glob("index/shard_*.parquet"):
        path.unlink()
    assert list_unneeded(dataset) == []


def write_result(dataset: Path, index_fingerprint: str) -> None:
    with h5py.File(dataset / "embeddings.h5", "w") as file:
        file.attrs["index_fingerprint"] = index_fingerprint


def test_beside_the_result_all_checkpoints_are_listed(dataset):
    """Those of its recipe are gone, and those of other settings are of no use to it."""
    everything = sorted((dataset / "checkpoints").iterdir())
    write_result(dataset, read_metadata(dataset / "index.parquet", "index")["fingerprint"])
    (dataset / "index/reuse.json").write_text("damaged")
    assert list_unneeded(dataset) == everything and len(everything) == 4


@pytest.mark.parametrize("damaged", [False, True])
def test_a_result_that_is_made_anew_still_needs_checkpoints(damaged, dataset):
    """The sequences have changed, and a run was stopped before it replaced the result."""
    write_result(dataset, "0" * 64)
    if damaged:
        (dataset / "embeddings.h5").write_bytes(b"damaged")
    assert [path.name for path in list_unneeded(dataset)] == [f"{RECIPE[:12]}-old000000000"]


def test_files_that_a_worker_removes_meanwhile_are_not_counted(dataset):
    (old,) = list_unneeded(dataset)
    (old / "shard_0/batch_00001.safetensors").write_bytes(bytes(BLOCK))
    states = unneeded._list_states(old)
    next(states)
    shutil.rmtree(old)
    assert list(states) == []


def test_a_file_with_another_name_elsewhere_frees_nothing(dataset):
    (old,) = list_unneeded(dataset)
    block = old / "shard_0/batch_00000.safetensors"
    assert count_freed([old]) == BLOCK
    os.link(block, old / "shard_0/batch_00001.safetensors")
    assert count_freed([old]) == BLOCK
    os.link(block, dataset / "taken.safetensors")
    assert count_freed([old]) == 0


def test_the_size_is_told_and_nothing_is_removed_unless_asked_for(dataset):
    (old,) = list_unneeded(dataset)
    size = format_bytes(count_freed([old]))
    lines = run(dataset.parent)
    assert lines[0] == f"clean: {old}: {size}" and "--remove removes them" in lines[1]
    assert old.exists()
    run(dataset.parent, "--remove")
    assert not old.exists() and len(list(dataset.glob("checkpoints/*"))) == 3


def test_a_folder_in_which_a_worker_is_at_work_stays(dataset):
    (old,) = list_unneeded(dataset)
    with open(old / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = run(dataset.parent, "--remove")
    assert (
        f"{old}: stays" in lines[1] and lines[2] == "clean: removed: 0 checkpoint folders, 0 bytes"
    )
    assert old.exists()


def test_the_sum_counts_what_was_removed_and_a_shared_file_once(dataset):
    (old,) = list_unneeded(dataset)
    busy, other = (old.with_name(f"{RECIPE[:12]}-{name}") for name in ("busy", "other"))
    for path in (busy, other):
        shutil.copytree(old, path)
        os.link(old / "shard_0/batch_00000.safetensors", path / "shard_0/batch_00001.safetensors")
    size = format_bytes(count_freed([old, other]))
    with open(busy / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        last = run(dataset.parent, "--remove")[-1]
    # The block that all three have stays in the folder that is busy.
    assert last == f"clean: removed: 2 checkpoint folders, {size}"
    size = format_bytes(count_freed([busy]))
    last = run(dataset.parent, "--remove")[-1]
    assert last == f"clean: removed: 1 checkpoint folder, {size}"


def test_a_dataset_with_a_damaged_list_is_named_and_the_others_are_listed(dataset):
    (old,) = list_unneeded(dataset)
    whole = shutil.copytree(dataset, dataset.with_name("whole"))
    damaged = dataset / "index/reuse.json"
    damaged.write_text("{")
    lines = run(dataset.parent, "--remove")
    assert f"{dataset}: nothing is listed" in lines[0] and f"{damaged}: damaged" in lines[0]
    assert old.exists() and not (whole / "checkpoints" / old.name).exists()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    (line,) = run(tmp_path / "none", code=1)
    assert line.startswith(f"clean: {tmp_path / 'none'}: is not a folder; give the folder")
