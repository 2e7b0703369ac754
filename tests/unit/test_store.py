"""Rows taken from an earlier result."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from seqembed.checkpoints.blocks import list_blocks, read_block
from seqembed.checkpoints.checkpoint import Checkpoint
from seqembed.index.split import split_index
from seqembed.index.table import read_shard_index, write_index
from seqembed.results.reader import store_path
from seqembed.results.rows import TokenRows
from seqembed.results.writer import Slab, write_embeddings

RECIPE = "ab" * 32
WIDTH = 3
LOGGER = logging.getLogger("test_store")


def _digests(folder: Path, sequences: list[str]) -> np.ndarray:
    """The digests of a shard of these sequences, longest first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.fasta").write_text("".join(f">{n}\n{s}\n" for n, s in enumerate(sequences)))
    write_index([folder / "a.fasta"], folder / "index.parquet")
    split_index(folder / "index.parquet", [folder / "shard_0.parquet"])
    return read_shard_index(folder / "shard_0.parquet").digests


def _rows(digests: np.ndarray) -> np.ndarray:
    return digests[:, :WIDTH].astype(np.float32)


def _flags(digests: np.ndarray) -> np.ndarray:
    return digests[:, 3] & 7


def _tokens(digest: np.ndarray, storage: str) -> np.ndarray:
    """The token rows that a sequence's digest alone decides, 1 to 5 of them."""
    return np.arange(1 + digest[0] % 5)[:, None] + digest[1 : 1 + WIDTH].astype(storage)


def _write_store(
    folder: Path,
    digests: np.ndarray,
    recipe: str = RECIPE,
    storage: str = "float32",
    per_residue: bool = False,
) -> Path:
    path = store_path(folder / "store", RECIPE)
    slab = Slab(
        sequence_ids=[str(row) for row in range(len(digests))],
        lengths=np.ones(len(digests), np.int64),
        digests=digests,
        flags=_flags(digests),
        embeddings=_rows(digests).astype(storage),
    )
    attributes = {"kind": "embeddings", "recipe_fingerprint": recipe}
    counts = [0, *(1 + digest[0] % 5 for digest in digests)]
    tokens = TokenRows(
        offsets=np.cumsum(counts, dtype=np.int64),
        parts=(_tokens(digest, storage).astype(storage) for digest in digests),
    )
    write_embeddings(
        path,
        count=len(digests),
        width=WIDTH,
        storage=storage,
        attributes=attributes,
        slabs=[slab],
        residues=tokens if per_residue else None,
    )
    return path


def _held(folder: Path) -> list[bytes]:
    """The digests in a folder's blocks, each checked to stand beside its own row and flag."""
    found = []
    for path in list_blocks(folder):
        block = read_block(path)
        np.testing.assert_array_equal(block.rows, _rows(block.digests))
        np.testing.assert_array_equal(block.flags, _flags(block.digests))
        found += [digest.tobytes() for digest in block.digests]
    return found


def _bytes(digests: np.ndarray) -> list[bytes]:
    return [digest.tobytes() for digest in digests]


def copy_from_store(
    path: Path, folder: Path, digests: np.ndarray, recipe: str, logger: logging.Logger
) -> int:
    """The number of rows that the checkpoint at `folder` takes over."""
    checkpoint = Checkpoint(base=folder.parent, rank=0, locked=True, logger=logger)
    blocks = checkpoint.copy_from_store(path, digests, recipe)
    assert [block.ids for block in blocks] == [read_block(p).ids for p in list_blocks(folder)]
    return sum(len(block.ids) for block in blocks)


@pytest.fixture
def stored(tmp_path):
    """The store of five sequences, one of them under two ids, as a result has it."""
    digests = _digests(tmp_path / "earlier", ["MKVLA", "WERT", "ACD", "LL", "M"])
    return _write_store(tmp_path, digests[[3, 0, 1, 0, 4, 2]])


def test_a_store_is_named_by_its_recipe(tmp_path):
    assert store_path(tmp_path, RECIPE) == tmp_path / "abababababab.h5"


def test_rows_of_the_store_become_blocks(tmp_path, stored):
    digests = _digests(tmp_path / "now", ["LL", "KKKKKKK", "MKVLA", "ACD", "Y"])
    folder = tmp_path / "checkpoints/shard_0"
    assert copy_from_store(stored, folder, digests, RECIPE, LOGGER) == 3
    assert _held(folder) == _bytes(digests[[1, 2, 3]])  # MKVLA, ACD, LL: longest first


def test_blocks_are_no_larger_than_slabs(tmp_path, stored, monkeypatch):
    monkeypatch.setattr("seqembed.results.reader.SLAB_ROWS", 2)
    digests = _digests(tmp_path / "now", ["LL", "MKVLA", "ACD", "WERT", "M"])
    folder = tmp_path / "shard_0"
    assert copy_from_store(stored, folder, digests, RECIPE, LOGGER) == 5
    assert [len(read_block(path).digests) for path in list_blocks(folder)] == [2, 2, 1]
    assert _held(folder) == _bytes(digests)


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_token_rows_of_the_store_become_those_of_blocks(tmp_path, storage, monkeypatch):
    monkeypatch.setattr("seqembed.results.reader.SLAB_ROWS", 2)
    earlier = _digests(tmp_path / "earlier", ["MKVLA", "WERT", "ACD", "LL", "M"])
    how = {"storage": storage, "per_residue": True}
    stored = _write_store(tmp_path, earlier[[3, 0, 1, 0, 4, 2]], **how)
    digests = _digests(tmp_path / "now", ["LL", "KKKKKKK", "MKVLA", "ACD", "Y"])
    folder = tmp_path / "shard_0"
    assert copy_from_store(stored, folder, digests, RECIPE, LOGGER) == 3
    assert _held(folder) == _bytes(digests[[1, 2, 3]])
    names = []
    for path in list_blocks(folder):
        block = read_block(path)
        assert block.rows.dtype == storage and block.residues.dtype == storage
        expected = [_tokens(digest, storage) for digest in block.digests]
        assert block.residues.counts.tolist() == [len(rows) for rows in expected]
        np.testing.assert_array_equal(
            block.residues.rows(folder, WIDTH), np.concatenate(expected).astype(storage)
        )
        names += [path.name, block.residues.name]
    assert len(names) == 4 and sorted(p.name for p in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("sequences", [["YYY"], ["YYY", "TT"]])
def test_a_store_without_the_sequences_writes_nothing(tmp_path, stored, sequences, caplog):
    digests = _digests(tmp_path / "now", sequences)
    assert copy_from_store(stored, tmp_path / "shard_0", digests, RECIPE, LOGGER) == 0
    assert not (tmp_path / "shard_0").exists()
    assert caplog.text == ""


def test_without_a_store_nothing_is_done(tmp_path, caplog):
    digests = _digests(tmp_path / "now", ["LL"])
    path = store_path(tmp_path / "store", RECIPE)
    assert copy_from_store(path, tmp_path / "shard_0", digests, RECIPE, LOGGER) == 0
    assert not (tmp_path / "shard_0").exists()
    assert caplog.text == ""


def test_an_empty_store_has_no_rows(tmp_path):
    path = _write_store(tmp_path, np.empty((0, 16), np.uint8))
    digests = _digests(tmp_path / "now", ["LL"])
    assert copy_from_store(path, tmp_path / "shard_0", digests, RECIPE, LOGGER) == 0


def test_a_damaged_store_is_passed_over(tmp_path, stored, caplog):
    digests = _digests(tmp_path / "now", ["LL", "MKVLA"])
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    assert copy_from_store(stored, tmp_path / "shard_0", digests, RECIPE, LOGGER) == 0
    assert f"the store is not used: {stored}: damaged" in caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert not (tmp_path / "shard_0").exists()


def test_a_store_of_another_recipe_is_passed_over(tmp_path, stored, caplog):
    digests = _digests(tmp_path / "now", ["LL", "MKVLA"])
    near = RECIPE[:12] + "cd" * 26
    assert copy_from_store(stored, tmp_path / "shard_0", digests, near, LOGGER) == 0
    assert f"{stored}: is of another recipe" in caplog.text
    assert not (tmp_path / "shard_0").exists()
