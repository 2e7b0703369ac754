"""A finished shard: every row in its place in input order, or none at all."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from worker_runs import SEQUENCES, Project, begin, make_project, make_sequences

from seqembed.checkpoints.blocks import list_blocks, read_block, write_block, write_next_block
from seqembed.checkpoints.manifest import CheckpointManifest, read_manifest, write_manifest
from seqembed.checkpoints.shard import assemble_shard
from seqembed.checkpoints.token_rows import ResidueSpool
from seqembed.errors import CheckpointError, IndexFormatError, ShardError
from seqembed.index.table import read_shard_index
from seqembed.results import reader as shards
from seqembed.results.reader import open_embeddings
from seqembed.results.seal import verify_seal

RECIPE: dict[str, str | int] = {
    "precision": "fp32",
    "pooling": "mean",
    "storage": "float32",
    "max_length": 1022,
}


@pytest.fixture
def shard_project(tmp_path) -> Project:
    return make_project(tmp_path, tmp_path / "no model")


def fill(
    folder: Path,
    project: Project,
    order: np.ndarray,
    cuts: list[int],
    rank: int = 0,
    width: int = 3,
    **recipe: Any,
) -> tuple[list[str], list[np.ndarray]]:
    """Blocks of the shard's places in this order; the values are those of the row in the input.

    With `per_residue` each has token rows as well, those of `tokens_of`.
    """
    shard = read_shard_index(project.index(rank))
    manifest = CheckpointManifest(
        rank=rank,
        world_size=project.world_size,
        recipe_fingerprint="a" * 64,
        shard_fingerprint=shard.fingerprint,
        token_budget=512,
        model="m",
        weights_sha256="c" * 64,
        width=width,
        recipe=RECIPE | recipe,
    )
    begin(folder, manifest, project.index(rank))
    ids, arrays = [], []
    for part in np.split(order, cuts):
        storage = manifest.recipe["storage"]
        rows = (shard.rows[part][:, None] * 10 + np.arange(width)).astype(storage)
        flags = np.where(shard.lengths[part] > 200, 2, 0).astype(np.uint8)
        spool = ResidueSpool(folder) if manifest.recipe.get("per_residue") else None
        if spool:
            for place in part.tolist():
                spool.add(place, tokens_of(int(shard.rows[place]), storage))
        residues = spool.seal(part.tolist()) if spool else None
        write_next_block(folder, shard.digests[part], rows, flags, batches=1, residues=residues)
        ids += [digest.tobytes().hex() for digest in shard.digests[part]]
        arrays.append(rows)
    return ids, arrays


def tokens_of(row: int, storage: str = "float32") -> np.ndarray:
    """The token rows of a row of the input: (length, 3)."""
    values = np.full((len(SEQUENCES[row]), 3), row, storage)
    values[:, 1] = np.arange(len(values))
    return values


def assert_token_rows(path: Path, rows: list[int], storage: str) -> None:
    with open_embeddings(path) as file:
        assert (file.rows.dtype, file.residues.dtype) == (storage, storage)
        offsets = file.offsets()
        assert np.diff(offsets).tolist() == [len(SEQUENCES[row]) for row in rows]
        for number, row in enumerate(rows):
            found = file.residues[offsets[number] : offsets[number + 1]]
            np.testing.assert_array_equal(found, tokens_of(row, storage))


def assert_whole(path: Path) -> None:
    verify_seal(path)
    count = len(SEQUENCES)
    with h5py.File(path) as file:
        expected = np.arange(count)[:, None] * 10 + np.arange(3)
        np.testing.assert_array_equal(file["embeddings"][:], expected)
        assert [i.decode() for i in file["sequence_ids"]] == [f"s{n}" for n in range(count)]
        assert file["lengths"][:].tolist() == [len(s) for s in SEQUENCES]
        assert file["flags"][:].tolist() == [2 if len(s) > 200 else 0 for s in SEQUENCES]


@pytest.mark.parametrize("slab_rows", [1, 7, 65_536])
def test_rows_are_in_input_order_however_they_were_computed(slab_rows, shard_project, monkeypatch):
    monkeypatch.setattr(shards, "SLAB_ROWS", slab_rows)
    order = np.random.default_rng(3).permutation(len(SEQUENCES))
    folder = shard_project.folder / "shard_0"
    path = assemble_shard(folder, 0, *fill(folder, shard_project, order, [5, 6, 30]))
    assert path == folder / "shard_0.h5"
    assert_whole(path)
    assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")]


@pytest.mark.parametrize(("world_size", "storage"), [(1, "float32"), (2, "float16")])
def test_token_rows_are_in_input_order_however_they_were_computed(tmp_path, storage, world_size):
    project = make_project(tmp_path, tmp_path / "no model", world_size=world_size)
    for rank in range(world_size):
        shard, folder = read_shard_index(project.index(rank)), tmp_path / f"shard_{rank}"
        order = np.random.default_rng(3).permutation(len(shard.rows))
        how = {"per_residue": True, "storage": storage}
        given = fill(folder, project, order, [5, 6, 6, 11], rank, **how)
        path = assemble_shard(folder, rank, *given)
        assert_token_rows(path, sorted(shard.rows.tolist()), storage)
        with open_embeddings(path) as file:
            assert file.attributes["per_residue"] is True
            expected = np.sort(shard.rows)[:, None] * 10 + np.arange(3)
            np.testing.assert_array_equal(file.rows, expected.astype(storage))


def test_an_empty_shard_has_no_token_rows_and_says_so(tmp_path):
    project = make_project(tmp_path, tmp_path / "no model", ["MKV"], world_size=2)
    given = fill(tmp_path / "a", project, np.arange(0), [], 1, per_residue=True, storage="float16")
    with open_embeddings(assemble_shard(tmp_path / "a", 1, *given)) as file:
        assert (file.count, file.residues.shape, file.residues.dtype) == (0, (0, 3), np.float16)
        assert file.offsets().tolist() == [0]


def test_token_rows_that_are_missing_stop_it(shard_project):
    folder = shard_project.folder / "shard_0"
    given = fill(folder, shard_project, np.arange(len(SEQUENCES)), [3, 20], per_residue=True)
    for path in list_blocks(folder)[1:]:
        block = read_block(path)
        path.unlink()
        write_block(folder, replace(block, residues=None))
    with pytest.raises(ShardError, match="shard_0.h5: .* no token rows"):
        assemble_shard(folder, 0, *given)
    assert not (folder / "shard_0.h5").exists()


def test_token_rows_that_are_not_asked_for_are_left_out(shard_project):
    folder = shard_project.folder / "shard_0"
    given = fill(folder, shard_project, np.arange(len(SEQUENCES)), [3], per_residue=True)
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, recipe=RECIPE))
    with open_embeddings(assemble_shard(folder, 0, *given)) as file:
        assert file.residues is None
    assert_whole(folder / "shard_0.h5")


def test_the_file_says_what_it_is(tmp_path):
    project = make_project(tmp_path, tmp_path / "no model", world_size=2)
    shard, folder = read_shard_index(project.index(1)), tmp_path / "shard_1"
    order = np.arange(len(shard.rows))
    path = assemble_shard(folder, 1, *fill(folder, project, order, [], rank=1))
    with h5py.File(path) as file:
        found = dict(file.attrs)
        assert len(file["embeddings"]) == len(shard.rows)
    assert found.pop("package_versions").startswith("{")
    assert "T" in found.pop("created")
    assert found == {
        "format_version": "1",
        "kind": "shard",
        "model": "m",
        "weights_sha256": "c" * 64,
        "recipe_fingerprint": "a" * 64,
        "rank": 1,
        "world_size": 2,
        "shard_fingerprint": shard.fingerprint,
        **RECIPE,
    }


def test_rows_are_never_all_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SLAB_ROWS", 50)
    count, width = 2000, 1000
    project = make_project(tmp_path, tmp_path / "no model", make_sequences([8] * count))
    ids, arrays = fill(tmp_path / "folder", project, np.arange(count), [700], width=width)
    tracemalloc.start()
    try:
        path = assemble_shard(tmp_path / "folder", 0, ids, arrays)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with open_embeddings(path) as file:
        assert file.rows.nbytes == 4 * count * width
    # The seal is made of pieces of 1 MB, and a slab is 0.2 MB.
    assert peak < 2 * count * width


def test_rows_of_no_sequence_and_rows_given_twice_do_no_harm(shard_project):
    folder = shard_project.folder / "shard_0"
    ids, arrays = fill(folder, shard_project, np.arange(len(SEQUENCES)), [20])
    assemble_shard(
        folder, 0, [*ids, "0f" * 16, ids[3]], [*arrays, np.full((1, 3), 9), arrays[0][3:4]]
    )
    assert_whole(folder / "shard_0.h5")


def test_a_row_that_is_missing_stops_it(shard_project):
    folder = shard_project.folder / "shard_0"
    ids, arrays = fill(folder, shard_project, np.arange(len(SEQUENCES)), [])
    with pytest.raises(ShardError, match=f"{folder / 'shard_0.h5'}: 2 sequences have no row"):
        assemble_shard(folder, 0, ids[2:], [arrays[0][2:]])
    assert not (folder / "shard_0.h5").exists()


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("manifest.json", None, CheckpointError),
        ("index.parquet", None, CheckpointError),
        ("index.parquet", b"PAR1", IndexFormatError),
    ],
)
def test_a_folder_that_lacks_a_part_is_named(name, content, error, shard_project):
    folder = shard_project.folder / "shard_0"
    given: Any = fill(folder, shard_project, np.arange(len(SEQUENCES)), [])
    (folder / name).unlink()
    if content:
        (folder / name).write_bytes(content)
    with pytest.raises(error, match=f"^{folder}.*remove it"):
        assemble_shard(folder, 0, *given)
