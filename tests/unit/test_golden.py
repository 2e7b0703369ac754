"""The first file of each format still reads, and says what it said then."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from seqembed.checkpoints.blocks import read_block
from seqembed.checkpoints.failures import LoneFailure, Suspect, read_failures
from seqembed.checkpoints.manifest import read_manifest
from seqembed.index.parquet import read_metadata
from seqembed.index.table import (
    read_excluded,
    read_ids_and_reasons,
    read_lengths_and_digests,
    read_shard_index,
)
from seqembed.models.prepare import read_prepared
from seqembed.results.quarantine import write_quarantine
from seqembed.results.reader import open_embeddings
from seqembed.settings.recipe import read_recipe

GOLDEN = Path(__file__).parents[1] / "golden"
QUARANTINE = GOLDEN / "quarantine"
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
    # It is older than what an index may exclude.
    assert list(read_ids_and_reasons(GOLDEN / "index.parquet")) == [(name, None) for name in IDS]
    assert read_excluded(GOLDEN / "index.parquet").tolist() == [False] * 6
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
    assert shard.lengths.tolist() == shard.tokens.tolist() == of(LENGTHS, LONGEST_FIRST)
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
    assert (recipe.per_residue, recipe.storage, recipe.pooling) == (False, "float32", "mean")


def test_checkpoint():
    manifest = read_manifest(GOLDEN)
    assert (manifest.rank, manifest.world_size, manifest.token_budget) == (1, 2, 4096)
    assert (manifest.recipe_fingerprint, manifest.shard_fingerprint) == (RECIPE, SHARD)
    assert manifest.recipe == read_recipe(GOLDEN / "recipe.json").fields()
    block = read_block(GOLDEN / "batch_00000.safetensors")
    assert (block.first, block.last, block.flags.tolist()) == (0, 0, [0, 0, 0, 0])
    assert block.residues is None
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
        assert (file.residues, file.rows.dtype) == (None, np.float32)
        np.testing.assert_allclose(file.rows[:, 0], of(FIRST_VALUES, rows), atol=5e-5)
    # As a user reads it.
    with h5py.File(GOLDEN / name) as plain:
        assert list(plain["sequence_ids"].asstr()[:]) == of(IDS, rows)


# With token rows, in float16; of DNA, and some of it excluded.

TOKENS = GOLDEN / "tokens"
DNA_IDS = ["no_bases", "first", "second", "third", "one_n", "näme", "long", "last", "over"]
REASONS = {0: "1 is unknown to the model (10 such)", 4: "5 is unknown to the model (1 such)"}
REASONS |= {8: "3 is unknown to the model (2 such)"}
KEPT = [1, 2, 3, 5, 6, 7]
DNA_LENGTHS = [10, 17, 38, 38, 5, 3, 88, 1, 5]
DNA_DIGESTS = [
    "e82ed012d9fed9d9924c32b1a4fb9c0e",
    "929e99ed86447ed1ab9266e40e390ebb",
    "40af77553d3cd40ec92b8edd76327e37",
    "40af77553d3cd40ec92b8edd76327e37",
    "c6ed3fddd78a1c5725851b6ad5f5beab",
    "2ab21766fd7f80966f4ba6e8e88213fd",
    "3c0faf99f8bee48d8ea524fdb8e2d394",
    "a815a9eaa0afa712890643c260c572e3",
    "2e709b8a127c8c2fbb277e32e6ec6243",
]
# Tokens without specials, by row; only the kept are ever counted.
TOKEN_COUNTS = {1: 6, 2: 8, 3: 8, 5: 1, 6: 23, 7: 1}
# The first value of each kept row's embedding, and of each of its token rows.
DNA_VALUES = [1.6172, 1.4541, 1.4541, 0.5850, 1.5439, 1.4043]
TOKEN_VALUES = [
    1.6172,
    1.3633,
    0.6851,
    1.1445,
    0.9961,
    0.9150,
    1.4541,
    0.3354,
    1.1777,
    0.7476,
    0.9517,
    0.8843,
    1.1807,
    0.5425,
    1.4541,
    0.3354,
    1.1777,
    0.7476,
    0.9517,
    0.8843,
    1.1807,
    0.5425,
    0.5850,
    0.5684,
    -0.0363,
    1.2227,
    0.1556,
    0.2048,
    1.1592,
    0.0109,
    0.5630,
    0.0297,
    0.2561,
    0.2568,
    0.1892,
    1.2334,
    -0.1597,
    0.3108,
    0.8213,
    0.1041,
    0.9546,
    1.5439,
    -0.1406,
    -0.4087,
    0.5312,
    0.7490,
    1.4043,
]
DNA_WEIGHTS = "486f9e1687bab6c8f681cad1a02efaba856e846cad2a7d5443e9f8463510e60f"
DNA_SHA256 = "a5030261abee051decd1692943e297ae97d0f89ec70b46f9b7fd83f79d590e2e"
DNA_RECIPE = "d05f86ecb8d859e9003b3a9b284b48dcb1dbda52eaf73eaeadf153ca3a84fb28"
DNA_INDEX = "6980b8358e637ce2e3a507860a8ffcd2d2ba994ade4f98ee9ead25940c3c0f4e"
DNA_SHARD = "c21a71ff8acd8c5aa9cba79037ba4f43164a36db41ce06621d465a0757b22a57"
DNA_LONGEST_FIRST = [2, 1, 5, 7]


def token_values(rows: list[int]) -> list[float]:
    """The first values of the token rows of these rows, one after the other."""
    ends = np.cumsum([TOKEN_COUNTS[row] for row in KEPT])
    parts = dict(zip(KEPT, np.split(np.array(TOKEN_VALUES), ends[:-1]), strict=True))
    return np.concatenate([parts[row] for row in rows]).tolist()


def test_an_index_that_excludes():
    path = TOKENS / "index.parquet"
    assert read_metadata(path, "index")["fingerprint"] == DNA_INDEX
    lengths, digests = read_lengths_and_digests(path)
    assert (lengths.tolist(), hexes(digests)) == (DNA_LENGTHS, DNA_DIGESTS)
    reasons = {row: f"residue 'N' at {told}" for row, told in REASONS.items()}
    named = [(name, reasons.get(row)) for row, name in enumerate(DNA_IDS)]
    assert list(read_ids_and_reasons(path)) == named
    assert read_excluded(path).tolist() == [row in REASONS for row in range(9)]


def test_quarantine(tmp_path):
    """What is written today reads as it did then."""
    then = (TOKENS / "quarantine.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in then.splitlines()]
    assert rows[0] == ["sequence_id", "reason"]
    told = [[DNA_IDS[row], f"residue 'N' at {reason}"] for row, reason in REASONS.items()]
    assert rows[1:] == told
    assert write_quarantine(TOKENS / "index.parquet", tmp_path / "now.tsv", {}) == 3
    assert (tmp_path / "now.tsv").read_text(encoding="utf-8") == then


def test_shard_index_in_tokens():
    shard = read_shard_index(TOKENS / "shard_1.parquet")
    assert (shard.rank, shard.world_size, shard.fingerprint) == (1, 2, DNA_SHARD)
    assert shard.rows.tolist() == DNA_LONGEST_FIRST
    assert shard.lengths.tolist() == of(DNA_LENGTHS, DNA_LONGEST_FIRST)
    assert shard.tokens.tolist() == [TOKEN_COUNTS[row] for row in DNA_LONGEST_FIRST]
    assert hexes(shard.digests) == of(DNA_DIGESTS, DNA_LONGEST_FIRST)


def test_model_of_dna():
    model = read_prepared(TOKENS / "model.json")
    assert (model.name, model.family, model.size) == ("tiny_dna", "dnabert_s", 139512)
    assert (model.sha256, model.fingerprint, model.max_length) == (DNA_SHA256, DNA_WEIGHTS, 1998)
    assert model.tokenizer_file == "tiny_dna/tokenizer.json"
    assert (model.layer("last"), model.facts.molecule) == (2, "DNA")


def test_recipe_with_token_rows():
    recipe = read_recipe(TOKENS / "recipe.json")
    assert recipe.fingerprint == DNA_RECIPE
    assert (recipe.layer, recipe.pooling, recipe.per_residue) == (1, "max", True)
    assert (recipe.precision, recipe.storage) == ("fp32", "float16")
    assert (recipe.long_sequences, recipe.max_length) == ("window", 8)


def test_checkpoint_with_token_rows():
    manifest = read_manifest(TOKENS)
    assert (manifest.recipe_fingerprint, manifest.shard_fingerprint) == (DNA_RECIPE, DNA_SHARD)
    assert manifest.recipe == read_recipe(TOKENS / "recipe.json").fields()
    block = read_block(TOKENS / "batch_00000.safetensors")
    assert hexes(block.digests) == of(DNA_DIGESTS, DNA_LONGEST_FIRST)
    places = [KEPT.index(row) for row in DNA_LONGEST_FIRST]
    assert block.rows.dtype == np.float16
    np.testing.assert_allclose(block.rows[:, 0], of(DNA_VALUES, places), atol=1e-3)
    assert block.residues
    assert block.residues.counts.tolist() == [TOKEN_COUNTS[row] for row in DNA_LONGEST_FIRST]
    found = block.residues.rows(TOKENS, manifest.width)
    assert (found.dtype, found.shape) == (np.float16, (16, 8))
    np.testing.assert_allclose(found[:, 0], token_values(DNA_LONGEST_FIRST), atol=1e-3)


def test_embeddings_with_token_rows():
    own = {"kind": "embeddings", "index_fingerprint": DNA_INDEX, "model": "tiny_dna"}
    own |= {"recipe_fingerprint": DNA_RECIPE, "weights_sha256": DNA_SHA256}
    offsets = [0, *np.cumsum([TOKEN_COUNTS[row] for row in KEPT]).tolist()]
    with open_embeddings(TOKENS / "embeddings.h5") as file:
        expected = own | read_recipe(TOKENS / "recipe.json").fields()
        assert {key: file.attributes[key] for key in expected} == expected
        assert file.lengths().tolist() == of(DNA_LENGTHS, KEPT)
        assert hexes(file.digests()) == of(DNA_DIGESTS, KEPT)
        assert file.flags().tolist() == [0, 0, 0, 0, 1, 0]
        assert (file.rows.dtype, file.residues.dtype) == (np.float16, np.float16)
        np.testing.assert_allclose(file.rows[:, 0], DNA_VALUES, atol=1e-3)
        np.testing.assert_allclose(file.residues[:, 0], TOKEN_VALUES, atol=1e-3)
        assert file.offsets().tolist() == offsets
    # As a user reads it.
    with h5py.File(TOKENS / "embeddings.h5") as plain:
        assert list(plain["sequence_ids"].asstr()[:]) == of(DNA_IDS, KEPT)
        start, stop = plain["residues/offsets"][4:6]
        long = plain["residues/embeddings"][start:stop]
        np.testing.assert_allclose(long[:, 0], token_values([6]), atol=1e-3)


POISON = "dc0bf1dca96a4b49bd8876c851795c08"
BROKEN = "IndexError: index out of range in self"


def test_failures():
    found = read_failures(QUARANTINE)
    assert (found.token_limit, found.quarantined) == (1024, {POISON: BROKEN})
    assert found.in_a_row == [LoneFailure(digest=POISON, memory=False)]
    crashed = Suspect(reason="the worker was killed by SIGSEGV")
    memory = "OutOfMemoryError: CUDA out of memory"
    alone = Suspect(reason=memory, failed=True, tries=1, memory=True)
    assert found.suspects == {**dict.fromkeys(range(3, 10), crashed), 12: alone}


@pytest.mark.parametrize(
    ("name", "ids"), [("shard_0.h5", ["s0", "s2", "s4"]), ("embeddings.h5", ["s0", "s2", "s4"])]
)
def test_a_table_of_what_could_not_be_embedded(name, ids):
    with open_embeddings(QUARANTINE / name) as file:
        assert file.quarantine() == {bytes.fromhex(POISON): BROKEN}
        assert file.lengths().tolist() == [3, 10, 2]
    with h5py.File(QUARANTINE / name) as plain:
        assert list(plain["sequence_ids"].asstr()[:]) == ids
        assert plain["quarantine/digests"][:].tobytes().hex() == POISON
        assert list(plain["quarantine/reasons"].asstr()[:]) == [BROKEN]
