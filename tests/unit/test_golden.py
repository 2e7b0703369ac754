"""The first file of each format still reads, and says what it said then."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from seqembed.blocks import read_block
from seqembed.checkpoints import read_manifest
from seqembed.index import read_lengths_and_digests, read_metadata, read_shard_index
from seqembed.models.prepare import read_prepared
from seqembed.recipe import read_recipe
from seqembed.shards import open_embeddings

GOLDEN = Path(__file__).parents[1] / "golden"
IDS = ["first", "second", "third", "näme", "long", "last"]
LENGTHS = [10, 20, 20, 3, 50, 1]
DIGESTS = [
    "edbcb8caa1a15eadf21efede9d2982ac",
    "82c698fdfc1356b5c61160606e66816f",
    "82c698fdfc1356b5c61160606e66816f",
    "a41942b66d8b1e63eb607502c2443545",
    "a865bc9383289d37511e5fa5e85262a1",
    "a815a9eaa0afa712890643c260c572e3",
]
FIRST_VALUES = [0.16144720, -0.12567380, -0.12567380, -0.36335525, 0.0093, 0.33822550]
WEIGHTS = "e2d11635ed33d1b8a1aa0818dee7d01209670f636b2f9fd7f2211362a31f7e68"
SHA256 = "ab9bbb3d0732a38c4716643530907f2369ae5f00dc8a5a47d02153736a633ac0"
RECIPE = "8a954062344571eda6fff6978dd8d987a9e50afffbf650c5eee9365625f1879e"
INDEX = "9720aafb46fc736452e5b835d61d66e5e1e4290b27997bce0a24b3f38c8dc521"
SHARD = "bfa68ceb9938cfece5b27dad62f64a2aad552b2dcfdc4a3f9c01d3a6c8d5f562"
# Of the index, the rows of shard 1: in its order, longest first, and in input order.
LONGEST_FIRST, IN_ORDER = [1, 0, 3, 5], [0, 1, 3, 5]


def of(values: list, rows: list[int]) -> list:
    return [values[row] for row in rows]


def hexes(digests: np.ndarray) -> list[str]:
    return [digest.tobytes().hex() for digest in digests]


def test_index():
    assert read_metadata(GOLDEN / "index.parquet", "index")["fingerprint"] == INDEX
    lengths, digests = read_lengths_and_digests(GOLDEN / "index.parquet")
    assert (lengths.tolist(), hexes(digests)) == (LENGTHS, DIGESTS)
    first = pq.read_table(GOLDEN / "index.parquet").to_pylist()[0]
    assert first | {"digest": first["digest"].hex()} == {
        "row": 0,
        "sequence_id": "first",
        "description": "a description",
        "length": 10,
        "file": "input.fasta",
        "byte_offset": 0,
        "digest": DIGESTS[0],
    }


def test_shard_index():
    shard = read_shard_index(GOLDEN / "shard_1.parquet")
    assert (shard.rank, shard.world_size, shard.fingerprint) == (1, 2, SHARD)
    assert shard.rows.tolist() == LONGEST_FIRST
    assert shard.lengths.tolist() == of(LENGTHS, LONGEST_FIRST)
    assert hexes(shard.digests) == of(DIGESTS, LONGEST_FIRST)
    residues = pq.read_table(GOLDEN / "shard_1.parquet")["residues"].to_pylist()
    assert residues == [b"WEKDRSTNQHPFYCGILMVA", b"MKVLAAGIVT", b"MKX", b"G"]


def test_model():
    model = read_prepared(GOLDEN / "model.json")
    assert (model.name, model.weights, model.size) == ("tiny", "tiny/model.safetensors", 5708)
    assert (model.sha256, model.fingerprint, model.max_length) == (SHA256, WEIGHTS, 1022)


def test_recipe():
    recipe = read_recipe(GOLDEN / "recipe.json")
    assert recipe.fingerprint == RECIPE
    assert (recipe.layer, recipe.precision, recipe.max_length) == (1, "fp32", 40)


def test_checkpoint():
    manifest = read_manifest(GOLDEN)
    assert (manifest.rank, manifest.world_size, manifest.token_budget) == (1, 2, 4096)
    assert (manifest.recipe_fingerprint, manifest.shard_fingerprint) == (RECIPE, SHARD)
    assert manifest.recipe == read_recipe(GOLDEN / "recipe.json").fields()
    block = read_block(GOLDEN / "batch_00000.safetensors")
    assert (block.first, block.last, block.flags.tolist()) == (0, 0, [0, 0, 0, 0])
    assert hexes(block.digests) == of(DIGESTS, LONGEST_FIRST)
    np.testing.assert_allclose(block.rows[:, 0], of(FIRST_VALUES, LONGEST_FIRST), atol=5e-5)


@pytest.mark.parametrize(
    ("name", "rows", "own"),
    [
        ("embeddings.h5", [*range(6)], {"kind": "embeddings", "index_fingerprint": INDEX}),
        (
            "shard_1.h5",
            IN_ORDER,
            {"kind": "shard", "rank": 1, "world_size": 2, "shard_fingerprint": SHARD},
        ),
    ],
)
def test_embeddings(name, rows, own):
    shared = {"model": "tiny", "recipe_fingerprint": RECIPE, "weights_sha256": SHA256}
    with open_embeddings(GOLDEN / name) as file:
        expected = own | shared | read_recipe(GOLDEN / "recipe.json").fields()
        assert {key: file.attributes[key] for key in expected} == expected
        assert file.lengths().tolist() == of(LENGTHS, rows)
        assert hexes(file.digests()) == of(DIGESTS, rows)
        assert file.flags().tolist() == of([0, 0, 0, 0, 2, 0], rows)
        np.testing.assert_allclose(file.rows[:, 0], of(FIRST_VALUES, rows), atol=5e-5)
    # As a user reads it.
    with h5py.File(GOLDEN / name) as plain:
        assert list(plain["sequence_ids"].asstr()[:]) == of(IDS, rows)
