"""Rows taken from an earlier result."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from broken_files import flip
from known_files import WIDTH, flags_of, rows_of, token_rows_of, write_indices, write_known_file

from seqembed.checkpoints.blocks import list_blocks, read_block
from seqembed.checkpoints.checkpoint import Checkpoint
from seqembed.index.reader import read_shard_index
from seqembed.results.reader import store_path

RECIPE = "ab" * 32
LOGGER = logging.getLogger("test_store")
EARLIER = ["MKVLA", "WERT", "ACD", "LL", "M"]


def _digests(folder: Path, sequences: list[str]) -> np.ndarray:
    """The digests of a shard of these sequences, longest first."""
    write_indices(folder, sequences, shards=1)
    return read_shard_index(folder / "index/shard_0.parquet").digests


def _lengths(digests: np.ndarray) -> np.ndarray:
    return 1 + digests[:, 0].astype(np.int64) % 5


def _write_store(
    folder: Path, digests: np.ndarray, storage: str = "float32", tokens: bool = False
) -> Path:
    return write_known_file(
        store_path(folder / "store", RECIPE),
        _lengths(digests),
        digests,
        storage=storage,
        tokens=tokens,
        kind="embeddings",
        recipe_fingerprint=RECIPE,
    )


def copy_from_store(path: Path, folder: Path, digests: np.ndarray, recipe: str = RECIPE) -> int:
    """How many rows the checkpoint at `folder` takes over; each is checked to be its own."""
    checkpoint = Checkpoint(base=folder.parent, rank=0, locked=True, logger=LOGGER)
    copied = checkpoint.copy_from_store(path, digests, set(), recipe)
    blocks = [read_block(block) for block in list_blocks(folder)]
    assert [block.ids for block in copied] == [block.ids for block in blocks]
    for block in blocks:
        np.testing.assert_array_equal(block.rows, rows_of(block.digests))
        np.testing.assert_array_equal(block.flags, flags_of(block.digests))
    return sum(len(block.ids) for block in copied)


@pytest.fixture
def stored(tmp_path):
    """The store of five sequences, one of them under two ids, as a result has it."""
    return _write_store(tmp_path, _digests(tmp_path / "earlier", EARLIER)[[3, 0, 1, 0, 4, 2]])


def test_a_store_is_named_by_its_recipe(tmp_path):
    assert store_path(tmp_path, RECIPE) == tmp_path / "abababababab.h5"


@pytest.mark.parametrize(
    ("storage", "tokens"), [("float32", False), ("float32", True), ("float16", True)]
)
def test_rows_of_the_store_become_blocks_no_larger_than_slabs(
    tmp_path, storage, tokens, monkeypatch
):
    monkeypatch.setattr("seqembed.results.reader.SLAB_ROWS", 2)
    earlier = _digests(tmp_path / "earlier", EARLIER)
    stored = _write_store(tmp_path, earlier[[3, 0, 1, 0, 4, 2]], storage, tokens)
    digests = _digests(tmp_path / "now", ["LL", "KKKKKKK", "MKVLA", "ACD", "Y"])
    folder = tmp_path / "shard_0"
    assert copy_from_store(stored, folder, digests) == 3
    blocks = [read_block(path) for path in list_blocks(folder)]
    assert [len(block.rows) for block in blocks] == [2, 1]
    # MKVLA, ACD, LL: longest first.
    held = np.concatenate([block.digests for block in blocks])
    np.testing.assert_array_equal(held, digests[[1, 2, 3]])
    names = [path.name for path in list_blocks(folder)]
    for block in blocks:
        assert block.rows.dtype == storage and (block.residues is not None) == tokens
        if tokens:
            counts = _lengths(block.digests).tolist()
            assert (block.residues.dtype, block.residues.counts.tolist()) == (storage, counts)
            pairs = zip(block.digests, counts, strict=True)
            expected = np.concatenate([token_rows_of(*pair, storage) for pair in pairs])
            np.testing.assert_array_equal(block.residues.rows(folder, WIDTH), expected)
            names.append(block.residues.name)
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("sequences", [["YYY"], ["YYY", "TT"]])
@pytest.mark.parametrize("store", ["of others", "empty", "missing"])
def test_a_store_without_the_sequences_writes_nothing(store, sequences, tmp_path, stored, caplog):
    digests = _digests(tmp_path / "now", sequences)
    if store != "of others":
        stored.unlink()
    if store == "empty":
        _write_store(tmp_path, np.empty((0, 16), np.uint8))
    assert copy_from_store(stored, tmp_path / "shard_0", digests) == 0
    assert not (tmp_path / "shard_0").exists()
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("recipe", "problem"), [(RECIPE, "damaged"), (RECIPE[:12] + "cd" * 26, "is of another recipe")]
)
def test_a_damaged_store_or_one_of_another_recipe_is_passed_over(
    recipe, problem, tmp_path, stored, caplog
):
    digests = _digests(tmp_path / "now", ["LL", "MKVLA"])
    if problem == "damaged":
        flip(stored)
    assert copy_from_store(stored, tmp_path / "shard_0", digests, recipe) == 0
    assert f"result is not used, its rows are made anew: {stored}: {problem}" in caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert not (tmp_path / "shard_0").exists()
