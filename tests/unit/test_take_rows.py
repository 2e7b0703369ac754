"""Rows that a worker takes from results and from checkpoints of other splits."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_files import flip
from indexing import split_proteins
from known_files import flags_of, rows_of, token_rows_of, write_indices
from known_sources import (
    LOGGER,
    MODEL,
    OTHER_RECIPES,
    RECIPE,
    REQUEST,
    TOKEN_RECIPE,
    digests_of,
    read_content,
    write_block_of,
    write_checkpoint,
    write_result,
    write_stored,
)

from seqembed.checkpoints import taken_files
from seqembed.checkpoints.find_sources import SourceFinder
from seqembed.checkpoints.manifest_and_failures import (
    FAILURES,
    Failures,
    read_failures,
    write_failures,
)
from seqembed.checkpoints.saved_rows import read_saved
from seqembed.checkpoints.take_rows import RowTaker
from seqembed.checkpoints.taken_files import (
    REFUSED,
    REUSED,
    TAKEN,
    TakenRows,
    forget_refused,
    link_result,
    read_refused,
    read_taken,
    refuse_results,
    write_taken,
)
from seqembed.errors import CheckpointError
from seqembed.index.reader import read_shard_index
from seqembed.index.sources import SOURCES
from seqembed.results.seal import read_seal
from seqembed.settings.recipe import Recipe
from seqembed.storage.digests import digest
from seqembed.storage.locks import lock_folder
from seqembed.storage.publish import link, make_link, sync

WANTED = ["MKVLA", "WERT", "ACD", "LL", "M"]


class Run:
    """A dataset of WANTED in one shard, after split; its other runs were before."""

    def __init__(self, folder: Path, recipe: Recipe = RECIPE, **config: Sequence[Path]) -> None:
        self.results, self.recipe, self.config = folder / "mine", recipe, config
        self.index = self.results / "index/shard_0.parquet"
        self.folder = self.results / f"checkpoints/{recipe.fingerprint[:12]}-{'f' * 12}/shard_0"

    def split(self, *, recipe: Recipe | None = None) -> None:
        found = recipe or self.recipe
        request = replace(REQUEST, precision=found.precision, per_residue=found.per_residue)
        stores, reuse = self.config.get("stores", ()), self.config.get("reuse", ())
        where = (self.results, request, MODEL, "cpu", stores, reuse, LOGGER)
        index = write_indices(self.results, WANTED)
        split_proteins(index, [self.index], find=SourceFinder(*where).find)

    def take(self, *finished: str, **config: Any) -> RowTaker:
        """Take rows, and check each of those that are taken."""
        digests = read_shard_index(self.index).digests
        names = [digest(sequence.encode()).hex() for sequence in finished]
        taker = RowTaker(self.folder, digests, names, self.recipe.fingerprint, LOGGER)
        paths = {name: [*map(str, files)] for name, files in (self.config | config).items()}
        taker.take(self.index, self.results, paths)
        check_taken(self.folder, taker, digests, self.recipe)
        return taker


def check_taken(folder: Path, taker: RowTaker, digests: np.ndarray, recipe: Recipe) -> None:
    """The linked files hold the rows that are taken, and no row is lost."""
    taken = read_taken(folder)
    assert taken.count == taker.count == len(taker.ids()) == taker.taken.sum()
    assert all(Path(file).parent == folder / TAKEN for file in taken.files)
    left = {key.tobytes() for key in digests[taker.taken]}
    assert {key.hex() for key in left} == {*taker.ids()}
    for saved in (read_saved(Path(file)) for file in taken.files):
        np.testing.assert_array_equal(saved.rows, rows_of(saved.digests, recipe.storage))
        np.testing.assert_array_equal(saved.flags, flags_of(saved.digests))
        assert (saved.token_rows is not None) == recipe.per_residue
        if saved.token_rows:
            rows, offsets = saved.token_rows
            counts = np.diff(offsets).tolist()
            pairs = zip(saved.digests, counts, strict=True)
            np.testing.assert_array_equal(rows, np.concatenate([token_rows_of(*p) for p in pairs]))
        held = {key.tobytes() for key in saved.digests}
        assert held & left, "a file of which nothing is used"
        left -= held
    assert not left


def names_of(taker: RowTaker) -> list[str]:
    """The sequences whose rows are taken, in WANTED's order."""
    return [sequence for sequence in WANTED if digest(sequence.encode()).hex() in taker.ids()]


def missing_of(run: Run, taker: RowTaker) -> list[str]:
    held = {key.tobytes() for key in read_shard_index(run.index).digests[taker.missing]}
    return [sequence for sequence in WANTED if digest(sequence.encode()) in held]


@pytest.mark.parametrize("recipe", [RECIPE, TOKEN_RECIPE])
def test_rows_are_taken_from_results_and_checkpoints(tmp_path, caplog, recipe):
    theirs = write_stored(tmp_path / "other", ["YY", "WERT"], recipe, device_name="H200")
    reused = write_result(tmp_path / "old.h5", ["LL", "WERT"], recipe)
    run = Run(tmp_path, recipe, stores=[theirs.parent], reuse=[reused])
    blocks = [["QQ", "ACD"], ["LL"]]
    write_checkpoint(run.results, blocks, recipe, finished=["M"], device_name="A100, L4")
    run.split()
    caplog.set_level("INFO")
    taker = run.take()
    assert names_of(taker) == ["WERT", "ACD", "LL", "M"]
    assert missing_of(run, taker) == ["MKVLA"]
    assert (taker.from_results, taker.count) == (2, 4)
    assert {*taker.device_names} == {"H200", "", "A100, L4"}
    assert (
        "the rows of 1 sequences are taken from " + str(theirs) + " (H200, PyTorch" in caplog.text
    )
    assert len(read_taken(run.folder).files) == 4


def test_what_is_finished_is_not_taken(tmp_path):
    write_stored(tmp_path / "mine", WANTED)
    run = Run(tmp_path)
    run.split()
    taker = run.take("LL", "M", "QQ")
    assert (names_of(taker), missing_of(run, taker)) == (["MKVLA", "WERT", "ACD"], [])
    taker = run.take(*WANTED)
    assert (taker.count, read_taken(run.folder)) == (0, TakenRows())
    assert not (run.folder / REUSED).exists()


def test_a_taken_row_ends_the_quarantine_of_its_sequence(tmp_path):
    write_stored(tmp_path / "mine", ["LL", "M"])
    run = Run(tmp_path)
    run.split()
    lost, taken = (digest(name).hex() for name in (b"WERT", b"LL"))
    write_failures(run.folder, Failures(token_limit=9, quarantined={lost: "a", taken: "b"}))
    run.take()
    assert read_failures(run.folder) == Failures(token_limit=9, quarantined={lost: "a"})
    before = (run.folder / FAILURES).stat()
    run.take()
    # It is written only if it changes.
    assert (run.folder / FAILURES).stat() == before


def test_damaged_failures_are_left_to_the_tracker(tmp_path):
    write_stored(tmp_path / "mine", ["LL"])
    run = Run(tmp_path)
    run.split()
    run.folder.mkdir(parents=True)
    (run.folder / FAILURES).write_text("{")
    assert names_of(run.take()) == ["LL"]
    assert (run.folder / FAILURES).read_text() == "{"


@pytest.mark.parametrize("listed", [False, True])
def test_a_reused_file_that_changed_since_split_is_looked_at_anew(tmp_path, caplog, listed):
    """Its path is with the worker's settings, or was with those of split alone."""
    reused = write_result(tmp_path / "old.h5", WANTED)
    run = Run(tmp_path, reuse=[reused])
    run.split()
    write_result(reused, ["LL", "QQ"])
    taker = run.take(**({} if listed else {"reuse": []}))
    assert names_of(taker) == (["LL"] if listed else [])
    assert f"{reused}: changed since split found rows in it; they are made anew" in caplog.text


@pytest.mark.parametrize("change", ["gone", "folder", "other recipe", "strange", "damaged"])
def test_of_a_store_that_is_of_no_use_any_more_the_rows_are_missing(tmp_path, caplog, change):
    own = write_stored(tmp_path / "mine", WANTED)
    run = Run(tmp_path)
    run.split()
    seal = read_seal(own)
    if change == "other recipe":
        write_result(own, WANTED, OTHER_RECIPES["layer"])
    elif change == "damaged":
        write_result(own, ["LL"])
        flip(own)
    else:
        own.unlink()
    if change == "folder":
        own.mkdir()
    elif change == "strange":
        own.write_bytes(b"strange")
    taker = run.take()
    assert (taker.count, missing_of(run, taker)) == (0, WANTED)
    assert f"{own}: changed since split found rows in it" in caplog.text
    assert ("an earlier result is not used: " in caplog.text) == (change in ("strange", "damaged"))
    assert link_result(run.folder, own, seal) is None


def test_of_a_checkpoint_that_is_gone_the_rows_are_missing(tmp_path):
    run = Run(tmp_path)
    gone = write_checkpoint(run.results, [["LL"]])
    write_checkpoint(run.results, [["M"]], split="1" * 12)
    run.split()
    shutil.rmtree(gone)
    taker = run.take()
    assert (names_of(taker), missing_of(run, taker)) == (["M"], ["MKVLA", "WERT", "ACD", "LL"])


@pytest.fixture(params=[None, errno.EPERM, errno.EXDEV])
def no_links(request, monkeypatch) -> bool:
    """Whether the file system refuses hard links."""

    def refuse(source: Path, target: Path) -> None:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "File exists", str(source), None, str(target))
        raise OSError(request.param, "refused", str(source), None, str(target))

    if request.param:
        monkeypatch.setattr(os, "link", refuse)
    return bool(request.param)


@pytest.mark.parametrize("recipe", [RECIPE, TOKEN_RECIPE])
def test_links_outlast_the_removal_of_their_files(tmp_path, caplog, monkeypatch, no_links, recipe):
    monkeypatch.chdir(tmp_path)
    own = write_stored(tmp_path / "mine", ["LL", "ACD"], recipe)
    run = Run(Path(), recipe)
    folder = write_checkpoint(run.results, [["M"], ["MKVLA"]], recipe)
    run.split()
    for _ in range(2):
        assert names_of(run.take()) == ["MKVLA", "ACD", "LL", "M"]
    kinds = {path.is_symlink() for path in (run.folder / TAKEN).iterdir()}
    assert kinds == {no_links} and caplog.text == ""
    own.unlink()
    shutil.rmtree(folder)
    taker = run.take()
    # Symbolic links lead nowhere now: the rows are made anew.
    assert names_of(taker) == ([] if no_links else ["MKVLA", "ACD", "LL", "M"])
    assert ("made anew" in caplog.text) == no_links


@pytest.mark.parametrize("blocks", [[], [["M"], ["MKVLA"]]])
def test_links_outlast_a_power_cut(tmp_path, monkeypatch, no_links, blocks):
    """Their folder is synced after they are made."""
    write_stored(tmp_path / "mine", ["LL", "ACD"])
    run = Run(tmp_path)
    write_checkpoint(run.results, blocks)
    run.split()
    unsynced: set[str] = set()

    def make(source: Path, target: Path, *, symbolic: bool = False) -> bool:
        unsynced.add(target.name)
        return make_link(source, target, symbolic=symbolic)

    def sync_folder(path: Path) -> None:
        sync(path)
        unsynced.difference_update(os.listdir(path))

    monkeypatch.setattr(taken_files, "make_link", make)
    monkeypatch.setattr(taken_files, "sync", sync_folder)
    run.take()
    assert len(list((run.folder / TAKEN).iterdir())) == 1 + len(blocks) and not unsynced


def test_without_links_of_any_kind_rows_are_made_anew(tmp_path, caplog, monkeypatch):
    own = write_stored(tmp_path / "mine", ["LL", "ACD"])
    run = Run(tmp_path)
    folder = write_checkpoint(run.results, [["M"], ["MKVLA"]])
    run.split()
    late = write_result(tmp_path / "late.h5", ["WERT"])

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(source), None, target)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "symlink", refuse)
    taker = run.take(reuse=[late])
    assert (taker.count, missing_of(run, taker)) == (0, WANTED)
    names = [message.split(" ")[3] for message in caplog.messages]
    assert names == [*map(str, (own, folder, late))]
    assert all("its file system has no links" in message for message in caplog.messages)


def test_a_block_under_the_name_of_an_earlier_one_is_linked_anew(tmp_path, caplog):
    """A new block may have a removed one's number; then its link replaces the old one."""
    run = Run(tmp_path)
    folder = write_checkpoint(run.results, [["M"], ["LL"]])
    run.split()
    run.take()
    path = folder / "batch_00001.safetensors"
    path.unlink()
    write_block_of(folder, ["ACD"])
    assert path.exists() and names_of(run.take()) == ["ACD", "M"]
    (linked,) = (run.folder / TAKEN).glob("*batch_00001.safetensors")
    content = linked.read_bytes()
    linked.unlink()
    linked.write_bytes(content)
    flip(linked)
    assert names_of(run.take()) == ["ACD", "M"] and caplog.text == ""


def test_a_result_that_a_merge_refused_is_checked_whole(tmp_path, caplog):
    """Split found rows in it; a whole copy elsewhere has the same seal."""
    reused = write_result(tmp_path / "old.h5", ["LL"])
    run = Run(tmp_path, reuse=[reused])
    run.split()
    assert names_of(run.take()) == ["LL"]
    copy = shutil.copy(reused, tmp_path / "copy.h5")
    flip(reused)
    checkpoints = run.results / "checkpoints"
    refuse_results(checkpoints, map(Path, read_taken(run.folder).files))
    taker = run.take()
    assert names_of(taker) == [] and f"{reused}: damaged since" in caplog.text
    caplog.clear()
    # Its path may be with the settings of split alone.
    assert names_of(run.take(reuse=[])) == [] and f"{reused}: damaged since" in caplog.text
    assert names_of(run.take(reuse=[reused, copy])) == ["LL"]
    (linked,) = (run.folder / TAKEN).iterdir()
    assert os.path.samefile(linked, copy)
    forget_refused(checkpoints)
    assert not (checkpoints / REFUSED).exists() and read_refused(checkpoints) == set()
    forget_refused(checkpoints)


def test_refused_results_are_kept_and_a_damaged_list_is_none(tmp_path):
    names = ["a" * 32, "b" * 32]
    for name in names:
        refuse_results(tmp_path, [tmp_path / f"{name}.h5", tmp_path / "shard_0.h5"])
    assert read_refused(tmp_path) == {*names}
    (tmp_path / REFUSED).write_text("[" * 100_000)
    assert read_refused(tmp_path) == set()


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    write_stored(tmp_path / "mine", WANTED)
    run = Run(tmp_path)
    run.split()

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="No space"):
        run.take()


def test_results_that_split_has_not_seen_are_checked_and_taken(tmp_path, caplog):
    stored = tmp_path / "other/store"
    names = ["late.h5", "damaged.h5", "none.h5", "layer.h5", "strange.h5", "shard.h5"]
    late, damaged, none, layer, strange, shard = paths = [tmp_path / name for name in names]
    run = Run(tmp_path)
    run.split()
    theirs = write_stored(tmp_path / "other", ["LL"], device_name="H200")
    own = write_stored(run.results, ["M"])
    write_result(late, ["LL", "ACD"])
    flip(write_result(damaged, WANTED))
    write_result(layer, WANTED, OTHER_RECIPES["layer"])
    strange.write_bytes(b"strange")
    write_result(shard, WANTED, kind="shard")
    folder = tmp_path / "folder.h5"
    folder.mkdir()
    patterns = [*paths, folder, tmp_path / "*.none"]
    taker = run.take(stores=[stored, tmp_path / "none"], reuse=patterns)
    assert (names_of(taker), taker.from_results) == (["ACD", "LL", "M"], 3)
    assert taker.device_names == ["", "H200", ""]
    messages = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message.split(": ")[1] for message in messages] == [
        str(damaged),
        str(strange),
        str(shard),
    ]
    assert all(message.startswith("an earlier result is not used: ") for message in messages)
    assert not none.exists() and own.exists() and theirs.exists()


def test_a_result_of_no_use_to_split_is_not_read_again(tmp_path, caplog):
    """Were it read, a warning would say that it is damaged."""
    reused = write_result(tmp_path / "old.h5", ["QQ"])
    own = write_stored(tmp_path / "mine", ["LL"])
    run = Run(tmp_path, reuse=[reused])
    run.split()
    flip(reused)
    copy = shutil.copy(reused, tmp_path / "copy.h5")
    taker = run.take(reuse=[reused, copy, own])
    assert (names_of(taker), caplog.text) == (["LL"], "")


def test_where_all_rows_are_there_no_other_result_is_read(tmp_path, caplog):
    run = Run(tmp_path)
    write_stored(run.results, WANTED)
    run.split()
    late = write_result(tmp_path / "late.h5", ["LL", "QQ"])
    flip(late)
    assert names_of(run.take(reuse=[late])) == WANTED
    assert caplog.text == ""


@pytest.mark.parametrize("damaged", ["block", "token rows", "no token rows", "shard"])
def test_damaged_files_of_another_checkpoint_are_left_and_named(tmp_path, caplog, damaged):
    run = Run(tmp_path, TOKEN_RECIPE)
    folder = write_checkpoint(run.results, [["M"], ["LL"]], TOKEN_RECIPE, finished=["ACD"])
    run.split()
    block = read_saved(folder / "batch_00000.safetensors")
    raw = Path(block.token_rows[0].filename)
    if damaged == "no token rows":
        raw.unlink()
    else:
        path = {"block": block.path, "token rows": raw, "shard": folder / "shard_0.h5"}[damaged]
        flip(path)
    before = read_content(folder)
    lost = "ACD" if damaged == "shard" else "M"
    for _ in range(2):
        assert names_of(run.take()) == [name for name in ("ACD", "LL", "M") if name != lost]
        assert "rows of an earlier split are made anew: " in caplog.text
        caplog.clear()
    # What is damaged is the other worker's to mend.
    assert read_content(folder) == before


def test_a_folder_in_which_a_worker_writes_is_read_and_left_as_it_is(tmp_path, caplog):
    run = Run(tmp_path, TOKEN_RECIPE)
    folder = write_checkpoint(run.results, [["M"], ["LL"]], TOKEN_RECIPE)
    for name in (f".batch_00002.safetensors.{'0' * 32}.tmp", f".residues_{'0' * 32}.raw.tmp"):
        (folder / name).write_bytes(b"half")
    (folder / f"residues_{'1' * 32}.raw").write_bytes(b"of a block that is not written yet")
    (folder / "in_flight.json").write_text("{}")
    with lock_folder(folder.parent, lambda: None, LOGGER) as locked:
        assert locked
        run.split()
        before = read_content(folder.parent)
        assert names_of(run.take()) == ["LL", "M"]
        assert read_content(folder.parent) == before
        write_block_of(folder, ["WERT"], TOKEN_RECIPE)
        assert names_of(run.take()) == ["WERT", "LL", "M"]
    assert not any(path.name.endswith(".tmp") for path in (run.folder / TAKEN).iterdir())
    assert caplog.text == ""


def test_files_that_go_while_they_are_linked_are_left(tmp_path, monkeypatch):
    run = Run(tmp_path)
    folder = write_checkpoint(run.results, [["M"], ["LL"]])
    run.split()
    make = os.link

    def late(source: Path, target: Path) -> None:
        """The other worker has joined its blocks."""
        (folder / "batch_00000.safetensors").unlink(missing_ok=True)
        make(source, target)

    monkeypatch.setattr(os, "link", late)
    taker = run.take()
    assert names_of(taker) == ["LL"] and "M" in missing_of(run, taker)


def test_a_checkpoint_that_goes_while_it_is_linked_leaves_no_block_without_token_rows(
    tmp_path, monkeypatch, caplog
):
    run = Run(tmp_path, TOKEN_RECIPE)
    folder = write_checkpoint(run.results, [["M"], ["LL"]], TOKEN_RECIPE)
    run.split()
    make = os.link

    def remove_after(source: Path, target: Path) -> None:
        """The other run was merged."""
        make(source, target)
        shutil.rmtree(folder)

    monkeypatch.setattr(os, "link", remove_after)
    assert (run.take().count, caplog.text) == (0, "")


def test_rows_of_another_recipe_are_not_taken_although_split_found_them(tmp_path):
    """The first worker came to another recipe than that of the files."""
    run = Run(tmp_path)
    write_stored(run.results, WANTED)
    write_checkpoint(run.results, [WANTED])
    run.split()
    run.recipe = OTHER_RECIPES["precision"]
    taker = run.take()
    assert (taker.count, missing_of(run, taker)) == (0, WANTED)
    assert not run.folder.exists()


def test_a_damaged_list_of_sources_is_named_and_results_are_taken_all_the_same(tmp_path, caplog):
    run = Run(tmp_path)
    write_stored(run.results, ["LL"])
    write_checkpoint(run.results, [["M"]])
    run.split()
    (run.index.parent / SOURCES).write_text("{")
    assert names_of(run.take()) == ["LL"]
    assert f"{run.index.parent / SOURCES}: damaged" in caplog.text
    (run.index.parent / SOURCES).unlink()
    assert names_of(run.take()) == ["LL"]


def test_the_number_of_taken_rows_comes_back_and_damage_is_named(tmp_path):
    assert read_taken(tmp_path) == TakenRows()
    (tmp_path / TAKEN).mkdir()
    write_taken(tmp_path, TakenRows(3, ["/a/é.h5", "b"]))
    (tmp_path / TAKEN).rmdir()
    assert read_taken(tmp_path) == TakenRows(3, ["/a/é.h5", "b"])
    path = tmp_path / REUSED
    for damaged in ("", "[]", path.read_text().replace("3", "4"), "[" * 100_000):
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match=f"^{path}: damaged .*remove it and run again"):
            read_taken(tmp_path)
    write_taken(tmp_path, TakenRows())
    assert list(tmp_path.iterdir()) == []


def test_a_link_of_another_run_is_not_mistaken_for_the_result(tmp_path):
    """A link of this name may lead to what was replaced, or damaged, since."""
    result = write_result(tmp_path / "old.h5", WANTED)
    seal, folder = read_seal(result), tmp_path / "shard_0"
    first = link_result(folder, result, seal)
    assert first and os.path.samefile(first, result)
    first.unlink()
    link(write_result(tmp_path / "other.h5", ["LL"]), first)
    assert link_result(folder, result, seal) == first and os.path.samefile(first, result)
    assert link_result(folder, result, read_seal(tmp_path / "other.h5")) is None
    copy = Path(shutil.copy(result, tmp_path / "copy.h5"))
    assert link_result(folder, copy, seal) == first and os.path.samefile(first, result)
    assert link_result(folder, copy, seal, whole=True) == first and os.path.samefile(first, copy)


def test_a_result_that_is_replaced_while_it_is_linked_is_not_taken(tmp_path, monkeypatch):
    result, make = write_result(tmp_path / "old.h5", WANTED), os.link

    def replace_before(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", make)
        write_result(source, ["LL"])
        make(source, target)

    monkeypatch.setattr(os, "link", replace_before)
    assert link_result(tmp_path / "shard_0", result, read_seal(result)) is None


def test_digests_are_those_of_the_sequences():
    """The tests above would say nothing if all rows were alike."""
    assert len({row.tobytes() for row in rows_of(digests_of(WANTED))}) == len(WANTED)
