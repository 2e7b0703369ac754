"""The disk that a plan predicts: sizes of files as they are written, and what is there counts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from known_files import KNOWN_RECIPE, write_indices, write_known_file, write_known_shard

from seqembed.checkpoints.blocks import Block, write_block
from seqembed.checkpoints.manifest_and_failures import Failures, write_failures
from seqembed.checkpoints.token_rows import ResidueSpool
from seqembed.index.parquet import read_metadata
from seqembed.index.reader import read_lengths_and_digests
from seqembed.index.sources import Sources, write_sources
from seqembed.look.disk import DiskPlan, RowSizes, plan_disk, used_bytes
from seqembed.look.shards import PlannedShard, read_planned_shard
from seqembed.settings.lengths import LengthPolicy
from seqembed.storage.digests import digest, digest_rows, to_hex
from seqembed.worker.manifest import checkpoint_key

WHOLE = LengthPolicy(long_sequences="full", max_length=0)
WIDTH = 64
ROW = 4 * WIDTH
NAME = KNOWN_RECIPE.fingerprint[:12]


def measure(
    path: Path, count: int, letters: int, storage: str = "float32", *, width: int, tokens: bool
) -> tuple[int, int]:
    """The size of a file of `count` rows, as planned and as written."""
    random = np.random.default_rng(count + letters)
    digests = random.integers(0, 255, (count, 16), np.uint8)
    lengths = random.integers(1, 30, count)
    names = [f"{number:0{letters}}" for number in range(count)]
    write_known_file(
        path, lengths, digests, names=names, width=width, storage=storage, tokens=tokens
    )
    row = width * {"float32": 4, "float16": 2}[storage]
    sizes = RowSizes(row=row, per_residue=tokens, policy=WHOLE)
    return sizes.file(np.full(count, letters), lengths), path.stat().st_size


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize(("count", "letters"), [(0, 8), (1, 1), (3_000, 9), (3_000, 1_000)])
def test_the_size_of_a_file_is_known_before_it_is_written(tmp_path, count, letters, storage):
    planned, written = measure(
        tmp_path / "a.h5", count, letters, storage, width=WIDTH, tokens=False
    )
    assert abs(planned - written) <= 0.002 * written + 40_000


def test_the_size_with_token_rows_is_known(tmp_path):
    planned, written = measure(tmp_path / "a.h5", 20_000, 8, width=4, tokens=True)
    assert written > 5_000_000
    assert abs(planned - written) <= 0.002 * written + 40_000


def test_truncated_sequences_have_fewer_token_rows():
    cut = LengthPolicy(long_sequences="truncate", max_length=10)
    ids, tokens = np.full(1, 8), np.array([100])
    sizes = [RowSizes(row=ROW, per_residue=True, policy=policy) for policy in (WHOLE, cut)]
    assert sizes[0].file(ids, tokens) - sizes[1].file(ids, tokens) == 90 * ROW


def test_the_size_of_blocks_is_known(tmp_path):
    spool = ResidueSpool(tmp_path)
    lengths = np.arange(1, 101)
    for position, length in enumerate(lengths):
        spool.add(position, np.ones((length, WIDTH), np.float32))
    block = Block(
        first=0,
        last=0,
        digests=np.zeros((100, 16), np.uint8),
        rows=np.zeros((100, WIDTH), np.float32),
        flags=np.zeros(100, np.uint8),
        residues=spool.seal(range(100)),
    )
    write_block(tmp_path, block)
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    planned = RowSizes(row=ROW, per_residue=True, policy=WHOLE).blocks(lengths)
    assert planned <= written <= planned + 1_000


@pytest.fixture
def results(tmp_path) -> Path:
    """Two shards of four sequences, nothing computed."""
    folder = tmp_path / "results/mine"
    write_indices(folder, ["ACDEF", "ACD", "MKV", "MKLV"], shards=2)
    return folder


def read(results: Path) -> list[PlannedShard]:
    paths = [results / f"index/shard_{rank}.parquet" for rank in range(2)]
    return [read_planned_shard(path, results, KNOWN_RECIPE) for path in paths]


def plan(results: Path, result: int = 1_000_000) -> DiskPlan:
    sizes = RowSizes(row=ROW, per_residue=False, policy=WHOLE)
    return plan_disk(results, read(results), KNOWN_RECIPE, sizes, result=result, at_once=2)


def write(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return path


def test_the_peak_is_the_merge_where_shards_and_result_are_there(results):
    now = used_bytes(results)
    found = plan(results)
    assert found.now == now
    assert found.end == now + 1_000_000
    shards = found.peak - found.end
    assert 2 * 20_000 < shards < 2 * 24_000, "a small shard is mostly headers"


def test_a_small_result_takes_less_than_blocks_beside_shards(results):
    assert plan(results, result=0).peak > plan(results, result=0).end


def test_rows_that_are_saved_already_are_not_counted_twice(results):
    before = plan(results)
    for shard in read(results):
        folder = results / "checkpoints" / checkpoint_key(KNOWN_RECIPE, shard.index)
        path = write(folder / f"shard_{shard.index.rank}/batch_00000.safetensors", 50_000)
        write(path.parent / "taken/a.h5", 1 << 20)
    found = plan(results)
    assert found.now - before.now == 2 * 53_248
    assert (found.peak, found.end) == (before.peak, before.end)


def test_old_results_of_other_recipes_stay(results):
    before = plan(results)
    write(results / "store/0123456789ab.h5", 1 << 20)
    write(
        results / "checkpoints/0123456789ab-0123456789ab/shard_0/batch_00000.safetensors", 1 << 20
    )
    found = plan(results)
    assert (found.peak - before.peak, found.end - before.end) == (2 << 20, 2 << 20)


def test_an_old_result_of_this_recipe_goes_with_the_merge(results):
    before = plan(results)
    stored = write(results / f"store/{NAME}.h5", 1 << 20)
    os.utime(stored, (1, 1))
    os.link(stored, results / "embeddings.h5")
    write(results / f"checkpoints/{NAME}-0123456789ab/shard_0/batch_00000.safetensors", 1 << 20)
    found = plan(results)
    assert (found.peak - before.peak, found.end - before.end) == (2 << 20, 0)


def test_an_old_result_that_no_store_keeps_is_gone_before_the_merge(results):
    before = plan(results)
    write(results / "embeddings.h5", 1 << 19)
    found = plan(results)
    assert (found.peak - before.peak, found.end - before.end) == (0, 0)


def test_a_result_that_the_store_has_takes_no_more(results):
    write_sources(results / "index", Sources())
    stored = write(results / f"store/{NAME}.h5", 1 << 20)
    found = plan(results)
    assert found.now == found.peak == found.end == used_bytes(results)
    assert not any(shard.missing.any() for shard in read(results))
    os.utime(stored, (1, 1))
    assert plan(results).more > 1_000_000
    assert all(shard.missing.all() for shard in read(results))


def write_result(results: Path, failed: dict[bytes, str], **changes: str) -> None:
    """Write the finished result of all sequences but `failed`; changes: of its attributes."""
    index = results / "index.parquet"
    lengths, digests = read_lengths_and_digests(index)
    attributes = {"index_fingerprint": read_metadata(index, "index")["fingerprint"]}
    attributes |= {"recipe_fingerprint": KNOWN_RECIPE.fingerprint}
    path = results / f"store/{NAME}.h5"
    path.parent.mkdir(exist_ok=True)
    write_known_file(
        path, lengths, digests, width=60_000, quarantine=failed, **attributes | changes
    )
    os.utime(path, (1, 1))


def test_a_result_that_the_merge_will_link_is_not_written_again(results):
    failed = {digest(b"MKV"): "too long"}
    write_result(results, {}, index_fingerprint="of other files")
    other = plan(results)
    write_result(results, {})
    assert other.peak - plan(results).peak == pytest.approx(1_000_000, abs=10_000)
    write_result(results, failed)
    lacking = plan(results)
    for shard in read(results):
        folder = results / "checkpoints" / checkpoint_key(KNOWN_RECIPE, shard.index)
        (folder / f"shard_{shard.index.rank}").mkdir(parents=True)
        failures = Failures(quarantined={to_hex(digest_rows(failed))[0]: "too long"})
        write_failures(folder / f"shard_{shard.index.rank}", failures)
    assert lacking.peak - plan(results).peak > 900_000


def test_a_finished_shard_is_there(results):
    before = plan(results)
    path = write_known_shard(results, 0, **KNOWN_RECIPE.fields())
    shard = read(results)[0].index
    folder = results / "checkpoints" / checkpoint_key(KNOWN_RECIPE, shard) / "shard_0"
    folder.mkdir(parents=True)
    os.link(path, folder / "shard_0.h5")
    found, (first, second) = plan(results), read(results)
    assert (first.missing.any(), second.missing.all()) == (False, True)
    assert found.peak == before.peak
    other = read_planned_shard(
        results / "index/shard_0.parquet", results, replace(KNOWN_RECIPE, layer=1)
    )
    assert other.missing.all()
