"""The merge of shards that take rows from results and from checkpoints of other splits."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from broken_files import flip
from hypothesis import given, settings
from hypothesis import strategies as st
from indexing import split_proteins
from known_files import (
    WIDTH,
    flags_of,
    rows_of,
    token_rows_of,
    write_indices,
    write_known_shard,
)
from known_sources import (
    LOGGER,
    MODEL,
    OTHER_RECIPES,
    RECIPE,
    REQUEST,
    TOKEN_RECIPE,
    digests_of,
    lengths_of,
    write_block_of,
    write_checkpoint,
    write_result,
    write_stored,
)

from seqembed.checkpoints import reused_rows
from seqembed.checkpoints.checkpoint import Checkpoint, read_finished
from seqembed.checkpoints.find_sources import SourceFinder
from seqembed.checkpoints.finished_shard import assemble_shard
from seqembed.checkpoints.manifest_and_failures import write_manifest
from seqembed.checkpoints.merge import Summary, merge, remove_merged
from seqembed.checkpoints.saved_rows import read_saved
from seqembed.checkpoints.take_rows import RowTaker
from seqembed.checkpoints.taken_files import read_refused
from seqembed.errors import ShardError
from seqembed.index.reader import read_shard_index
from seqembed.index.sources import SOURCES
from seqembed.results.reader import MAPS_A_FILE, join_names, open_embeddings
from seqembed.results.writer import Slab, write_embeddings
from seqembed.settings.recipe import Recipe
from seqembed.storage.digests import digest
from seqembed.worker.manifest import checkpoint_key, make_manifest

SEQUENCES = ["MKVLA", "WERT", "ACD", "MKVLA", "LL", "M", "QQ", "WERT", "YYYY"]


class Run:
    """A dataset in the folder `mine`: index, split, workers that compute nothing, and merge."""

    def __init__(
        self,
        folder: Path,
        sequences: Sequence[str] = SEQUENCES,
        world_size: int = 2,
        recipe: Recipe = RECIPE,
        stores: Sequence[Path] = (),
        reuse: Sequence[Path] = (),
    ) -> None:
        self.results, self.sequences, self.recipe = folder / "mine", sequences, recipe
        self.stores, self.reuse = stores, reuse
        ranks = range(world_size)
        self.indexes = [self.results / f"index/shard_{rank}.parquet" for rank in ranks]
        self.shards = [self.results / f"shards/shard_{rank}.h5" for rank in ranks]
        self.output = self.results / "embeddings.h5"
        self.computed: list[str] = []

    def split(self) -> None:
        request = replace(REQUEST, precision="fp32", per_residue=self.recipe.per_residue)
        where = (self.results, request, MODEL, "cpu", self.stores, self.reuse, LOGGER)
        self.index = write_indices(self.results, self.sequences)
        split_proteins(self.index, self.indexes, find=SourceFinder(*where).find)

    def embed(self, rank: int) -> None:
        """Take what is there, write the rest as known rows, and finish the shard."""
        shard = read_shard_index(self.indexes[rank])
        base = self.results / "checkpoints" / checkpoint_key(self.recipe, shard)
        checkpoint = Checkpoint(base=base, rank=rank, locked=True, logger=LOGGER)
        ids, _ = read_finished(checkpoint.folder, LOGGER)
        taker = RowTaker(checkpoint.folder, shard.digests, ids, self.recipe.fingerprint, LOGGER)
        config = {"stores": [*map(str, self.stores)], "reuse": [*map(str, self.reuse)]}
        taker.take(self.indexes[rank], self.results, config)
        wanted = {key.tobytes() for key in shard.digests[taker.missing]}
        new = [s for s in dict.fromkeys(self.sequences) if digest(s.encode()) in wanted]
        self.computed += new
        if new:
            write_block_of(checkpoint.folder, new, self.recipe)
        cards = join_names(taker.device_names)
        manifest = make_manifest(MODEL, self.recipe, shard, 512, cards)
        checkpoint.link_index(self.indexes[rank], shard.fingerprint)
        write_manifest(checkpoint.folder, replace(manifest, width=WIDTH))
        ids, rows = read_finished(checkpoint.folder, LOGGER)
        path = assemble_shard(checkpoint.folder, rank, [*ids], [] if rows is None else [rows])
        folder = self.shards[rank].parent
        checkpoint.publish(path, self.indexes[rank], folder, shard.fingerprint)

    def merge(self) -> Summary:
        return merge(self.index, self.shards, self.output, LOGGER)

    def all(self) -> Summary:
        self.split()
        for rank in range(len(self.shards)):
            self.embed(rank)
        return self.merge()

    def again(self) -> Summary:
        """What Snakemake starts after a failed merge."""
        for rank, path in enumerate(self.shards):
            if not path.exists():
                self.embed(rank)
        return self.merge()

    def check(self) -> None:
        """The merged file holds the rows of each id's own sequence, in input order."""
        digests, lengths = digests_of(self.sequences), lengths_of(self.sequences)
        tokens = self.recipe.per_residue
        with open_embeddings(self.output) as file:
            assert file.ids(0, file.count) == [f"s{n}" for n in range(len(self.sequences))]
            np.testing.assert_array_equal(file.digests(), digests)
            np.testing.assert_array_equal(file.lengths(), lengths)
            np.testing.assert_array_equal(file.rows, rows_of(digests))
            np.testing.assert_array_equal(file.flags(), flags_of(digests))
            assert file.reused()[1] == [] and (file.residues is not None) == tokens
            if tokens:
                pairs = zip(digests, lengths, strict=True)
                expected = np.concatenate([token_rows_of(*pair) for pair in pairs])
                np.testing.assert_array_equal(file.residues, expected)
                assert file.offsets().tolist() == [0, *np.cumsum(lengths).tolist()]


def read_result(path: Path) -> dict[str, Any]:
    """The bytes of a merged file's datasets, and the attributes that say what they are."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update(
                {name: item[()].tobytes() if name != "sequence_ids" else item[()].tolist()}
                if isinstance(item, h5py.Dataset)
                else {}
            )
        )
        return found | {name: value for name, value in file.attrs.items() if name != "created"}


PROTEINS = st.lists(st.text("ACDEF", min_size=1, max_size=4), min_size=1, max_size=25)
WORLD_SIZES = st.integers(1, 5)


@settings(max_examples=12)
@given(PROTEINS, WORLD_SIZES, st.sampled_from([RECIPE, TOKEN_RECIPE]), st.data())
def test_the_result_is_that_of_a_run_from_nothing(sequences, world_size, recipe, data):
    """Whatever results, other splits and strangers hold beside rows of other recipes."""
    parts = st.lists(st.sampled_from([*sequences, "YYY", "YY"]), max_size=12)
    held = {name: data.draw(parts, name) for name in ("own", "other", "old", "late", "block")}
    shards = {name: list(dict.fromkeys(data.draw(parts, name))) for name in ("a", "b", "c")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = Run(folder / "plain", sequences, data.draw(WORLD_SIZES, "plain"), recipe)
        plain.all()
        assert sorted(plain.computed) == sorted({*sequences})
        old, late = folder / "old.h5", folder / "late.h5"
        run = Run(folder, sequences, world_size, recipe, [folder / "other/store"], [old, late])
        write_stored(run.results, held["own"], recipe)
        write_stored(folder / "other", held["other"], recipe)
        write_result(old, held["old"], recipe)
        for wrong in ("layer", "weights"):
            other = replace(recipe, **{wrong: getattr(OTHER_RECIPES[wrong], wrong)})
            write_stored(run.results, sequences, other, shift=1)
            write_checkpoint(run.results, [["AAAAA"]], other)
        blocks = [shards["a"], shards["b"]]
        write_checkpoint(run.results, blocks, recipe, split="0" * 12, finished=shards["c"])
        write_checkpoint(run.results, [list(dict.fromkeys(held["block"]))], recipe, split="1" * 12)
        run.split()
        write_result(late, held["late"], recipe)
        for rank in range(world_size):
            run.embed(rank)
        run.merge()
        run.check()
        assert read_result(run.output) == read_result(plain.output)
    there = {s for part in [*held.values(), *shards.values()] for s in part}
    assert sorted(run.computed) == sorted({*sequences} - there)


@pytest.mark.parametrize("recipe", [RECIPE, TOKEN_RECIPE])
def test_rows_of_shards_and_linked_files_come_in_input_order(tmp_path, recipe):
    store = tmp_path / "other/store"
    write_stored(tmp_path / "other", ["YY", "WERT", "ACD", "ACD"], recipe, device_name="H200")
    reused = write_result(tmp_path / "old.h5", ["M", "ACD"], recipe, device_name="B, A")
    run = Run(tmp_path, recipe=recipe, stores=[store], reuse=[reused])
    write_checkpoint(run.results, [["LL"]], recipe, finished=["MKVLA"], device_name="A")
    summary = run.all()
    run.check()
    assert (summary.sequences, summary.distinct) == (len(SEQUENCES), 7)
    assert (summary.relinked, summary.recipe) == (False, recipe.fingerprint)
    assert sorted(run.computed) == ["QQ", "YYYY"]
    with open_embeddings(run.output) as file:
        assert sorted(str(file.attributes["device_name"]).split(", ")) == ["A", "B", "H200"]
        assert file.attributes["recipe_fingerprint"] == recipe.fingerprint
    remove_merged(run.results, summary.recipe)
    assert not (run.results / "checkpoints").exists() and not any(map(Path.exists, run.shards))
    run.check()


def test_a_dataset_of_which_all_rows_are_there_computes_none(tmp_path):
    reused = write_result(tmp_path / "old.h5", SEQUENCES)
    run = Run(tmp_path, world_size=3, reuse=[reused])
    assert run.all().sequences == len(SEQUENCES)
    run.check()
    assert run.computed == []
    for path in run.shards:
        with open_embeddings(path) as file:
            assert file.count == 0 and len(file.reused()[0])


def test_a_result_that_many_shards_use_is_read_once(tmp_path, monkeypatch):
    reused = write_result(tmp_path / "old.h5", SEQUENCES)
    run = Run(tmp_path, world_size=3, reuse=[reused])
    run.split()
    for rank in range(3):
        run.embed(rank)
    opened = []

    def count(path: Path) -> Any:
        opened.append(path)
        return open_embeddings(path)

    monkeypatch.setattr(reused_rows, "open_embeddings", count)
    run.merge()
    assert len([path for path in opened if os.path.samefile(path, reused)]) == 1
    run.check()


@pytest.mark.parametrize(("recipe", "files"), [(RECIPE, 1), (TOKEN_RECIPE, 2)])
def test_a_linked_block_opens_no_more_files_than_are_asked_for(tmp_path, recipe, files):
    linked = [write_block_of(tmp_path, [name], recipe) for name in SEQUENCES]
    before = len(os.listdir("/proc/self/fd"))
    blocks = [read_saved(path) for path in linked]
    after = len(os.listdir("/proc/self/fd"))
    assert after - before == files * len(blocks) <= MAPS_A_FILE * len(linked)


def _find_link(run: Run, original: Path) -> list[Path]:
    links = run.results.glob("checkpoints/*/shard_*/taken/*")
    return [path for path in links if os.path.samefile(path, original)]


def _damage(path: Path) -> None:
    """Change the last byte of a file, whatever links to it."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")


def _embed_all(run: Run) -> None:
    run.split()
    for rank in range(len(run.shards)):
        run.embed(rank)


@pytest.mark.parametrize("kind", ["result", "block", "token rows", "shard"])
@pytest.mark.parametrize("fault", ["damaged", "missing", "cut"])
def test_shards_that_need_a_damaged_file_are_made_anew(tmp_path, kind, fault):
    """Those that do not need it stay."""
    run = Run(tmp_path, world_size=3, recipe=TOKEN_RECIPE, reuse=[tmp_path / "old.h5"])
    other = write_result(tmp_path / "old.h5", ["WERT"], TOKEN_RECIPE)
    blocks = [["LL", "M"]] if kind in ("block", "token rows") else []
    folder = write_checkpoint(
        run.results, blocks, TOKEN_RECIPE, finished=["LL", "M"] if kind == "shard" else None
    )
    if kind == "result":
        write_result(other, ["LL", "M"], TOKEN_RECIPE)
    _embed_all(run)
    patterns = {"block": "batch_*.safetensors", "token rows": "*.raw", "shard": "shard_*.h5"}
    (original,) = [other] if kind == "result" else folder.glob(patterns[kind])
    links = _find_link(run, original)
    users = {path for path in run.shards if _names(path, links, kind)}
    assert links and 0 < len(users) < 3
    for path in links:
        content = path.read_bytes()
        path.unlink()
        if fault != "missing":
            path.write_bytes(content if fault == "damaged" else content[:-1])
        if fault == "damaged":
            flip(path)
    with pytest.raises(ShardError, match="rows were taken from it, but .*; run again, and"):
        run.merge()
    # All other rows are taken where split found them.
    assert not run.output.exists() and (run.indexes[0].parent / SOURCES).exists()
    gone = {path for path in run.shards if not path.exists()}
    assert gone == users
    run.again()
    run.check()


def _names(shard: Path, links: Sequence[Path], kind: str) -> bool:
    with open_embeddings(shard) as file:
        named = {Path(name) for name in file.reused()[1]}
    folders = {path.parent for path in links}
    return any(path in links or (kind == "token rows" and path.parent in folders) for path in named)


def test_a_result_that_is_damaged_where_it_lies_costs_one_run(tmp_path, caplog):
    """Its links are the same file, under a name for each shard."""
    reused = write_result(tmp_path / "old.h5", SEQUENCES)
    run = Run(tmp_path, world_size=3, reuse=[reused])
    _embed_all(run)
    _damage(reused)
    with pytest.raises(ShardError, match=r"taken/.*\.h5: rows were taken from it, but damaged"):
        run.merge()
    assert not any(map(Path.exists, run.shards))
    run.again()
    run.check()
    assert sorted(run.computed) == sorted({*SEQUENCES})
    assert f"an earlier result is not used: {reused}: damaged" in caplog.text
    assert read_refused(run.results / "checkpoints")
    remove_merged(run.results, RECIPE.fingerprint)
    assert not (run.results / "checkpoints").exists()


def test_a_symbolic_link_to_what_is_another_result_now_is_refused(tmp_path, monkeypatch):
    """The result is whole, and of the right recipe."""

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    reused = write_result(tmp_path / "old.h5", SEQUENCES)
    run = Run(tmp_path, world_size=2, reuse=[reused])
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        _embed_all(run)
    links = _find_link(run, reused)
    assert len(links) == 2 and all(map(Path.is_symlink, links))
    write_result(reused, SEQUENCES, device_name="other")
    problem = r"^\S+: rows were taken from it, but another file has taken its place; run again"
    with pytest.raises(ShardError, match=problem):
        run.merge()
    assert not any(map(Path.exists, [*run.shards, run.output, *links]))
    run.again()
    run.check()
    assert run.computed == []


def test_all_damaged_files_are_found_in_one_merge(tmp_path):
    """Otherwise a user would have to run again for each of them."""
    reused = [write_result(tmp_path / f"{name}.h5", [name]) for name in ("LL", "M", "QQ", "WERT")]
    run = Run(tmp_path, world_size=4, reuse=reused)
    _embed_all(run)
    for path in reused[:3]:
        _damage(path)
    with pytest.raises(ShardError, match="but damaged .*, and so it is with 2 more files; run"):
        run.merge()
    assert not any(_find_link(run, path) for path in reused[:3])
    run.again()
    run.check()
    assert "WERT" not in run.computed and {"LL", "M", "QQ"} <= {*run.computed}


def test_a_linked_result_of_another_recipe_is_refused(tmp_path):
    run = Run(tmp_path, world_size=1)
    run.split()
    other = write_result(tmp_path / "b.h5", SEQUENCES, OTHER_RECIPES["layer"], shift=1)
    write_reusing_shard(run, 0, digests_of(list(dict.fromkeys(SEQUENCES))), [other])
    with pytest.raises(ShardError, match=f"^{other}: rows were taken .* of another recipe; run"):
        run.merge()
    assert not run.output.exists() and not run.shards[0].exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_shards_of_which_a_row_is_in_no_file_are_made_anew(tmp_path, damaged):
    """A block may be another one now; also if another shard names a damaged file."""
    reused = write_result(tmp_path / "old.h5", SEQUENCES)
    run = Run(tmp_path, world_size=3, reuse=[reused])
    _embed_all(run)
    lost = digests_of(["LL"]).tobytes()
    with open_embeddings(run.shards[1]) as file:
        wanted = [key for key in file.reused()[0] if key.tobytes() != lost]
    write_reusing_shard(run, 1, np.array([*wanted, *digests_of(["YY"])]), _find_link(run, reused))
    if damaged:
        bad = write_result(tmp_path / "bad.h5", ["MKVLA"])
        flip(bad)
        write_reusing_shard(run, 2, read_shard_index(run.indexes[2]).digests, [bad])
    problem = "but damaged" if damaged else "1 rows of the shards are in none of the files .*run ag"
    with pytest.raises(ShardError, match=problem):
        run.merge()
    assert [path.exists() for path in run.shards] == [True, False, not damaged]
    run.again()
    run.check()
    assert run.computed == []


def write_reusing_shard(
    run: Run, rank: int, digests: np.ndarray, files: Sequence[Path], keep: slice = slice(0)
) -> None:
    """Write a shard of which some rows, of (m, 16) digests, are in other files."""
    own = {"recipe_fingerprint": RECIPE.fingerprint}
    path = write_known_shard(run.results, rank, keep=keep, **own)
    with open_embeddings(path) as file:
        attributes, rows, count = dict(file.attributes), np.array(file.rows), file.count
        slab = Slab(
            sequence_ids=file.ids(0, count),
            lengths=file.lengths(),
            digests=file.digests(),
            flags=file.flags(),
            embeddings=rows,
        )
    reused = (digests, [*map(str, files)])
    form = {"count": count, "width": WIDTH, "storage": "float32", "attributes": attributes}
    write_embeddings(path, **form, slabs=[slab] if count else [], reused=reused)


@pytest.mark.parametrize(
    ("named", "held", "problem"),
    [
        (SEQUENCES, SEQUENCES[1:3], "5 rows of the shards are in none of the files"),
        (SEQUENCES, [], "7 rows of the shards are in none of the files"),
        (SEQUENCES[:4], SEQUENCES, "4 of its 9 sequences, the first in row 4, are in no shard"),
        ([*SEQUENCES, "DD", "DE"], [*SEQUENCES, "DD", "DE"], "2 rows of the shards belong to no"),
        (SEQUENCES, SEQUENCES, None),
    ],
)
def test_missing_and_surplus_rows_are_found(tmp_path, named, held, problem):
    run = Run(tmp_path, world_size=1)
    run.split()
    digests = digests_of(list(dict.fromkeys(named)))
    write_reusing_shard(run, 0, digests, [write_result(tmp_path / "old.h5", held)])
    if problem is None:
        run.merge()
        run.check()
        return
    with pytest.raises(ShardError, match=f"{problem}.*run again"):
        run.merge()
    assert not run.output.exists()


def test_a_row_that_is_in_the_shard_and_in_a_linked_file_is_surplus(tmp_path):
    run = Run(tmp_path, world_size=1)
    run.split()
    files = [write_result(tmp_path / "old.h5", SEQUENCES)]
    write_reusing_shard(run, 0, digests_of(["LL", "M"]), files, keep=slice(None))
    with pytest.raises(ShardError, match="2 rows of the shards belong to no sequence"):
        run.merge()


def test_sequences_that_failed_are_no_reason_to_refuse_rows_that_are_taken(tmp_path):
    run = Run(tmp_path, world_size=1)
    run.split()
    failed = dict.fromkeys(["LL", "M"], "killed the worker")
    own = {"recipe_fingerprint": RECIPE.fingerprint}
    write_known_shard(run.results, 0, keep=slice(0), failed=failed, **own)
    with open_embeddings(run.shards[0]) as file:
        attributes = dict(file.attributes)
    rest = [s for s in dict.fromkeys(SEQUENCES) if s not in failed]
    result = write_result(tmp_path / "old.h5", rest)
    write_embeddings(
        run.shards[0],
        count=0,
        width=WIDTH,
        storage="float32",
        attributes=attributes,
        slabs=[],
        quarantine={digest(s.encode()): reason for s, reason in failed.items()},
        reused=(digests_of(rest), [str(result)]),
    )
    summary = run.merge()
    assert (summary.sequences, len(summary.quarantined)) == (7, 2)


def test_without_its_other_files_a_merged_result_is_whole(tmp_path):
    reused = write_result(tmp_path / "old.h5", SEQUENCES)
    run = Run(tmp_path, reuse=[reused])
    run.all()
    reused.unlink()
    shutil.rmtree(run.results / "checkpoints")
    run.check()
