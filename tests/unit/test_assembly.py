"""A finished shard: every row in its place in input order, or none at all."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from worker_runs import GOLDEN, SEQUENCES, Project, begin, make_project, make_sequences

from seqembed.checkpoints.blocks import list_blocks, read_block, write_block, write_next_block
from seqembed.checkpoints.finished_shard import assemble_shard
from seqembed.checkpoints.manifest_and_failures import read_manifest, write_manifest
from seqembed.checkpoints.token_rows import ResidueSpool
from seqembed.errors import CheckpointError, IndexFormatError, ShardError
from seqembed.index.reader import read_shard_index
from seqembed.results import reader as shards
from seqembed.results.reader import open_embeddings

MANIFEST = read_manifest(GOLDEN)


@pytest.fixture
def shard_project(tmp_path) -> Project:
    return make_project(tmp_path, tmp_path / "no model")


def fill(
    project: Project,
    cuts: Sequence[int] = (),
    *,
    order: np.ndarray | None = None,
    rank: int = 0,
    width: int = 3,
    **recipe: Any,
) -> tuple[Path, list[str], list[np.ndarray]]:
    """Write blocks of the shard's rows in this order; return the folder, the ids and the rows.

    The values are those of the row in the input; with `per_residue` each has token rows as well.
    """
    folder, shard = project.folder / f"shard_{rank}", read_shard_index(project.index(rank))
    fields = {"rank": rank, "world_size": project.world_size, "width": width}
    fields |= {"shard_fingerprint": shard.fingerprint, "recipe": MANIFEST.recipe | recipe}
    begin(folder, project.index(rank), **fields)
    ids, arrays, storage = [], [], fields["recipe"]["storage"]
    for part in np.split(np.arange(len(shard.rows)) if order is None else order, cuts):
        rows = rows_of(shard.rows[part], storage, width)
        flags = np.where(shard.lengths[part] > 200, 2, 0).astype(np.uint8)
        spool = ResidueSpool(folder) if recipe.get("per_residue") else None
        for place in part.tolist() if spool else []:
            spool.add(place, tokens_of(int(shard.rows[place]), storage))
        residues = spool.seal(part.tolist()) if spool else None
        write_next_block(folder, shard.digests[part], rows, flags, batches=1, residues=residues)
        ids += [digest.tobytes().hex() for digest in shard.digests[part]]
        arrays.append(rows)
    return folder, ids, arrays


def rows_of(rows: np.ndarray, storage: str = "float32", width: int = 3) -> np.ndarray:
    """The embeddings of rows of the input."""
    return (rows[:, None] * 10 + np.arange(width)).astype(storage)


def tokens_of(row: int, storage: str = "float32") -> np.ndarray:
    """The token rows of a row of the input: (length, 3)."""
    values = np.full((len(SEQUENCES[row]), 3), row, storage)
    values[:, 1] = np.arange(len(values))
    return values


def check_shard(path: Path, rows: Sequence[int], storage: str = "float32", tokens: bool = False):
    """The file holds these rows of the input, in this order, and nothing else."""
    lengths = [len(SEQUENCES[row]) for row in rows]
    with open_embeddings(path) as file:
        assert file.rows.dtype == storage
        np.testing.assert_array_equal(file.rows, rows_of(np.array(rows), storage))
        assert file.lengths().tolist() == lengths
        assert file.flags().tolist() == [2 if length > 200 else 0 for length in lengths]
        assert (file.residues is not None) == tokens
        if tokens:
            expected = np.concatenate([tokens_of(row, storage) for row in rows])
            assert file.residues.dtype == storage
            np.testing.assert_array_equal(file.residues, expected)
            assert np.diff(file.offsets()).tolist() == lengths
    with h5py.File(path) as plain:
        assert plain["sequence_ids"].asstr()[:].tolist() == [f"s{row}" for row in rows]


@pytest.mark.parametrize("slab_rows", [1, 7, 65_536])
@pytest.mark.parametrize(
    ("world_size", "storage", "tokens"),
    [(1, "float32", False), (1, "float32", True), (2, "float16", True)],
)
def test_rows_are_in_input_order_however_they_were_computed(
    slab_rows, world_size, storage, tokens, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "SLAB_ROWS", slab_rows)
    project = make_project(tmp_path, tmp_path / "no model", world_size=world_size)
    for rank in range(world_size):
        rows = read_shard_index(project.index(rank)).rows
        order = np.random.default_rng(3).permutation(len(rows))
        how = {"per_residue": True} if tokens else {}
        folder, *given = fill(
            project, [5, 6, 6, 11], order=order, rank=rank, storage=storage, **how
        )
        path = assemble_shard(folder, rank, *given)
        assert path == folder / f"shard_{rank}.h5"
        check_shard(path, sorted(rows.tolist()), storage, tokens)
        assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")]


def test_an_empty_shard_has_no_token_rows_and_says_so(tmp_path):
    project = make_project(tmp_path, tmp_path / "no model", ["MKV"], world_size=2)
    folder, *given = fill(project, rank=1, per_residue=True, storage="float16")
    with open_embeddings(assemble_shard(folder, 1, *given)) as file:
        assert (file.count, file.residues.shape, file.residues.dtype) == (0, (0, 3), np.float16)
        assert file.offsets().tolist() == [0]


def test_token_rows_that_are_missing_stop_it(shard_project):
    folder, *given = fill(shard_project, [3, 20], per_residue=True)
    for path in list_blocks(folder)[1:]:
        block = read_block(path)
        path.unlink()
        write_block(folder, replace(block, residues=None))
    with pytest.raises(ShardError, match=f"^{folder / 'shard_0.h5'}: .*token rows"):
        assemble_shard(folder, 0, *given)
    assert not (folder / "shard_0.h5").exists()


def test_token_rows_that_are_not_asked_for_are_left_out(shard_project):
    folder, *given = fill(shard_project, [3], per_residue=True)
    write_manifest(folder, replace(read_manifest(folder), recipe=MANIFEST.recipe))
    check_shard(assemble_shard(folder, 0, *given), range(len(SEQUENCES)))


def test_the_file_says_what_it_is(tmp_path):
    project = make_project(tmp_path, tmp_path / "no model", world_size=2)
    folder, *given = fill(project, rank=1, per_residue=True)
    write_manifest(folder, replace(read_manifest(folder), device_name="NVIDIA A", licence="X"))
    with open_embeddings(assemble_shard(folder, 1, *given)) as file:
        found = file.attributes
    assert (found.pop("device_name"), found.pop("licence")) == ("NVIDIA A", "X")
    assert str(found.pop("package_versions")).startswith("{")
    assert "T" in str(found.pop("created"))
    assert found == MANIFEST.recipe | {
        "format_version": "1",
        "kind": "shard",
        "model": "tiny",
        "weights_sha256": MANIFEST.weights_sha256,
        "recipe_fingerprint": MANIFEST.recipe_fingerprint,
        "rank": 1,
        "world_size": 2,
        "shard_fingerprint": read_shard_index(project.index(1)).fingerprint,
        "per_residue": True,
    }


def test_rows_are_never_all_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SLAB_ROWS", 50)
    count, width = 2000, 1000
    project = make_project(tmp_path, tmp_path / "no model", make_sequences([8] * count))
    folder, ids, arrays = fill(project, [700], width=width)
    tracemalloc.start()
    try:
        path = assemble_shard(folder, 0, ids, arrays)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with open_embeddings(path) as file:
        assert file.rows.nbytes == 4 * count * width
    # The seal is made of pieces of 1 MB, and a slab is 0.2 MB.
    assert peak < 2 * count * width


def test_rows_of_no_sequence_and_rows_given_twice_do_no_harm(shard_project):
    folder, ids, arrays = fill(shard_project, [20])
    more = [*arrays, np.full((1, 3), 9), arrays[0][3:4]]
    path = assemble_shard(folder, 0, [*ids, "0f" * 16, ids[3]], more)
    check_shard(path, range(len(SEQUENCES)))


def test_a_row_that_is_missing_stops_it(shard_project):
    folder, ids, arrays = fill(shard_project)
    with pytest.raises(ShardError, match=f"^{folder / 'shard_0.h5'}: 2 sequences"):
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
    folder, *given = fill(shard_project)
    (folder / name).unlink()
    if content:
        (folder / name).write_bytes(content)
    with pytest.raises(error, match=f"^{folder}.*remove it"):
        assemble_shard(folder, 0, *given)
