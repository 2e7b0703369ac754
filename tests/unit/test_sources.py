"""Where split finds rows that need not be computed, and what it must never take for them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from broken_files import flip
from known_sources import (
    LOGGER,
    MODEL,
    OTHER_RECIPES,
    RECIPE,
    REQUEST,
    TOKEN_RECIPE,
    digests_of,
    read_content,
    write_checkpoint,
    write_recipe,
    write_result,
    write_stored,
)

from seqembed.checkpoints.find_sources import SourceFinder, expand_reuse, list_reuse_files
from seqembed.errors import ConfigError, IndexFormatError
from seqembed.index.sources import (
    SOURCES,
    Source,
    Sources,
    column_name,
    read_sources,
    write_sources,
)
from seqembed.results.seal import USER_BLOCK_BYTES, read_seal, seal
from seqembed.settings.recipe import Recipe, publish_recipe, recipe_path
from seqembed.storage.publish import link

FIXED = replace(REQUEST, precision="fp32")
WANTED = ["MKVLA", "WERT", "ACD", "LL", "M"]
Held = dict[str, dict[str, list[str]]]


def find(
    results: Path,
    wanted: Sequence[str] = WANTED,
    *,
    request: Any = FIXED,
    device: Any = "cpu",
    stores: Sequence[Path] = (),
    reuse: Sequence[Path] = (),
) -> Sources:
    finder = SourceFinder(results, request, MODEL, device, stores, reuse, LOGGER)
    return finder.find(digests_of(wanted))


def list_held(sources: Sources, wanted: Sequence[str] = WANTED) -> Held:
    """By recipe and by path, the sequences that are to be taken from there."""
    held: Held = {}
    for recipe, column in sources.columns.items():
        assert column.shape == (len(wanted),) and column.dtype == np.int32
        assert sources.recipes[recipe].fingerprint == recipe
        for sequence, number in zip(wanted, column.tolist(), strict=True):
            if number >= 0:
                assert sources.sources[number].recipe == recipe
                path = sources.sources[number].path
                held.setdefault(recipe, {}).setdefault(path, []).append(sequence)
    return held


def held_under(recipe: Recipe, held: dict[Path, list[str]]) -> Held:
    return {recipe.fingerprint: {str(path): sequences for path, sequences in held.items()}}


def test_rows_are_found_in_stores_reused_files_and_checkpoints_the_first_counts(tmp_path, caplog):
    results, other = tmp_path / "mine", tmp_path / "other"
    own = write_stored(results, ["QQ", "ACD", "ACD"])
    theirs = write_stored(other, ["ACD", "LL", "YY"], device_name="H200, A100")
    reused = write_result(tmp_path / "old.h5", ["LL", "M", "ACD"])
    blocks = write_checkpoint(results, [["M"], ["QQ", "WERT"], ["LL"]])
    finished = write_checkpoint(results, [], split="1" * 12, finished=["MKVLA", "WERT"])
    sources = find(results, stores=[other / "store", tmp_path / "none"], reuse=[reused])
    expected = {own: ["ACD"], theirs: ["LL"], reused: ["M"], blocks: ["WERT"], finished: ["MKVLA"]}
    assert list_held(sources) == held_under(RECIPE, expected)
    assert [source.path for source in sources.sources] == [str(path) for path in expected]
    seals = [read_seal(path) for path in (own, theirs, reused)]
    assert [source.seal for source in sources.sources] == [*seals, "", ""]
    assert sources.sources[1].device_name == "H200, A100"
    assert sources.sources[0].made.startswith("cpu, PyTorch ")
    assert sources.sources[1].made.startswith("H200, A100, PyTorch ")
    assert (list(sources.passed_over), caplog.text) == ([], "")


def test_without_any_source_nothing_is_found(tmp_path, caplog):
    (tmp_path / "mine/checkpoints" / f"{RECIPE.fingerprint[:12]}-0/shard_0").mkdir(parents=True)
    write_recipe(tmp_path / "mine", RECIPE)
    for found in (find(tmp_path / "mine"), find(tmp_path / "none"), find(tmp_path / "mine", [])):
        assert not (found.sources or found.passed_over or found.columns or found.recipes)
    assert caplog.text == ""


def test_results_without_a_wanted_row_are_passed_over(tmp_path, caplog):
    own, reused = write_stored(tmp_path, ["QQ"]), write_result(tmp_path / "old.h5", ["YY", "Q"])
    empty = write_result(tmp_path / "empty.h5", [])
    found = find(tmp_path, reuse=[reused, empty])
    assert list_held(found) == {} and found.sources == []
    assert found.passed_over == [read_seal(path) for path in (own, reused, empty)]
    assert caplog.text == ""


def test_of_the_same_content_one_file_is_read(tmp_path, caplog):
    own = write_stored(tmp_path, WANTED)
    copy, linked, empty = (tmp_path / name for name in ("copy.h5", "linked.h5", "empty.h5"))
    shutil.copy(own, copy)
    # Were it read, a warning would say so: its seal is that of the first.
    flip(copy)
    link(own, linked)
    write_result(empty, ["QQ"])
    again = shutil.copy(empty, tmp_path / "again.h5")
    flip(Path(again))
    found = find(tmp_path, reuse=[copy, linked, empty, Path(again)])
    assert list_held(found) == held_under(RECIPE, {own: WANTED})
    assert found.passed_over == [read_seal(empty)]
    assert caplog.text == ""


@pytest.mark.parametrize("field", OTHER_RECIPES)
def test_rows_of_another_recipe_are_never_taken(tmp_path, caplog, field):
    other = OTHER_RECIPES[field]
    # A precision of `auto` may come to any.
    for request in [FIXED] if field == "precision" else [FIXED, REQUEST]:
        results, theirs = tmp_path / request.precision, tmp_path / f"{request.precision}2"
        write_stored(results, WANTED, other)
        stored = write_stored(theirs, WANTED, other)
        write_checkpoint(results, [WANTED], other, finished=WANTED)
        reused = write_result(results / "old.h5", WANTED[:3], other)
        found = find(results, request=request, stores=[stored.parent], reuse=[reused])
        assert (list_held(found), found.sources) == ({}, [])
        value, own = getattr(other, field), getattr(RECIPE, field)
        reason = f"{field} is {value!r}, and {own!r} in this dataset"
        assert [record.message for record in caplog.records] == [
            f"{reused}: is not reused: {reason}"
        ]
        caplog.clear()


def test_a_store_whose_file_is_of_another_recipe_than_its_name_says_is_not_taken(tmp_path, caplog):
    other = write_result(tmp_path / "old.h5", WANTED, OTHER_RECIPES["layer"])
    other.rename(write_stored(tmp_path, WANTED))
    assert find(tmp_path).sources == []
    assert "is not reused: layer is 0, and 1 in this dataset" in caplog.text


CUDA = replace(RECIPE, device="cuda", precision="fp16")
FUSED = replace(CUDA, kernels="fused")
BF16 = replace(CUDA, precision="bf16")


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("auto", "auto", [RECIPE, CUDA, FUSED, BF16]),
        ("auto", "cuda", [CUDA, FUSED, BF16]),
        ("auto", "cpu", [RECIPE]),
        ("fp16", "auto", [CUDA, FUSED]),
        ("fp16", "cuda", [CUDA, FUSED]),
        ("fp32", "auto", [RECIPE]),
        ("bf16", "cpu", []),
    ],
)
def test_auto_accepts_what_it_can_come_to_and_each_recipe_keeps_to_its_files(
    tmp_path, precision, device, expected
):
    recipes = [RECIPE, CUDA, FUSED, BF16]
    held = {recipe: WANTED[number:] for number, recipe in enumerate(recipes)}
    paths = {recipe: write_stored(tmp_path, *reversed((recipe, held[recipe]))) for recipe in held}
    found = find(tmp_path, request=replace(REQUEST, precision=precision), device=device)
    wanted = [held_under(recipe, {paths[recipe]: held[recipe]}) for recipe in expected]
    assert list_held(found) == {key: value for one in wanted for key, value in one.items()}


def test_a_recipe_that_is_resolved_is_the_only_one(tmp_path, caplog):
    for recipe in (RECIPE, CUDA, FUSED, BF16):
        write_stored(tmp_path, WANTED, recipe)
        write_checkpoint(tmp_path, [["MKVLA"]], recipe)
    path = recipe_path(tmp_path / "recipes", REQUEST, MODEL)
    publish_recipe(FUSED, path)
    reused = write_result(tmp_path / "old.h5", ["LL"], CUDA)
    found = find(tmp_path, request=REQUEST, device="auto", reuse=[reused])
    assert [*list_held(found)] == [FUSED.fingerprint]
    assert (
        f"{reused}: is not reused: kernels is 'plain', and 'fused' in this dataset" in caplog.text
    )
    # A damaged one says nothing.
    path.write_text("{}")
    assert len(list_held(find(tmp_path, request=REQUEST, device="auto"))) == 4


def test_token_rows_are_found_in_results_and_checkpoints(tmp_path):
    request = replace(FIXED, per_residue=True)
    own = write_stored(tmp_path, ["ACD"], TOKEN_RECIPE)
    blocks = write_checkpoint(tmp_path, [["M"], ["LL"]], TOKEN_RECIPE)
    expected = held_under(TOKEN_RECIPE, {own: ["ACD"], blocks: ["LL", "M"]})
    assert list_held(find(tmp_path, request=request)) == expected


def test_what_a_checkpoint_has_whole_is_found_and_nothing_there_is_changed(tmp_path, caplog):
    folder = write_checkpoint(tmp_path, [["M"], ["LL"], ["ACD"]], finished=["WERT"])
    flip(folder / "batch_00001.safetensors", 3)
    (folder / "batch_00002.safetensors").write_bytes(b"half")
    (folder / "in_flight.json").write_text("[")
    before = read_content(folder)
    assert list_held(find(tmp_path)) == held_under(RECIPE, {folder: ["WERT", "M"]})
    assert read_content(folder) == before
    flip(folder / "shard_0.h5")
    assert list_held(find(tmp_path)) == held_under(RECIPE, {folder: ["M"]})
    # The worker that takes the others says what it leaves.
    assert caplog.text == ""


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _copy_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _preallocate(path: Path) -> None:
    """As some programs copy: the whole length, of which the end is not written yet."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))


def _set(**attributes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs.update(attributes)
        seal(path)

    return change


def _drop(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file.attrs[name]
        seal(path)

    return change


def _seal_otherwise(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b" xxh3-128 ", b" sha-512t ", 1))


def _write_strange(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["embeddings"] = np.zeros((5, 4))


def _seal_strange(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=USER_BLOCK_BYTES) as file:
        file["embeddings"] = np.zeros((5, 4), np.float32)
    seal(path)


def _write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_to(target: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return change


UNKNOWN = "has no recipe that this version knows"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (_cut, "damaged since it was written"),
    "half copied": (_copy_half, "damaged since it was written"),
    "being copied": (_preallocate, "damaged since it was written"),
    "format": (_set(format_version="2"), "has format version '2', and this program reads only '1'"),
    "checksum": (_seal_otherwise, "is sealed with another checksum than xxh3-128"),
    "strange": (_write_strange, "is not a sealed seqembed file"),
    "sealed strange": (_seal_strange, "has format version None"),
    "text": (_write(b"not HDF5\n"), "is not a sealed seqembed file"),
    "empty": (_write(b""), "is not a sealed seqembed file"),
    "folder": (_make_folder, "Is a directory"),
    "dangling": (_link_to("none"), "No such file"),
    "gone": (Path.unlink, "No such file"),
    # Even root gets an error when it reads this file.
    "unreadable": (_link_to("/proc/self/mem"), "Input/output error"),
    "loop": (_link_to("old.h5"), "Too many levels of symbolic links"),
    "shard": (_set(kind="shard"), "is not an embeddings.h5"),
    "no kind": (_drop("kind"), "is not an embeddings.h5"),
    "no layer": (_drop("layer"), UNKNOWN),
    "pooling": (_set(pooling="median"), UNKNOWN),
    "odd layer": (_set(layer=[1, 2]), UNKNOWN),
    "odd pooling": (_set(pooling=[1, 2]), UNKNOWN),
    "odd weights": (_set(weights=h5py.Empty("f")), UNKNOWN),
    "fingerprint": (_set(recipe_fingerprint="0" * 64), "settings that this version does not know"),
    "no fingerprint": (_drop("recipe_fingerprint"), "settings that this version does not know"),
    "unsaid rows": (_set(per_residue=True), "has no token rows"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_reused_file_that_cannot_be_used_is_named_and_its_rows_are_left(tmp_path, caplog, kind):
    reused = write_result(tmp_path / "old.h5", WANTED)
    good = write_result(tmp_path / "good.h5", ["LL"])
    damage, reason = BROKEN[kind]
    damage(reused)
    found = find(tmp_path / "mine", reuse=[reused, good])
    assert list_held(found) == held_under(RECIPE, {good: ["LL"]})
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message.startswith(f"{reused}: is not reused: ") and reason in record.message
    # It is the user's: there is nothing to remove.
    assert "remove" not in record.message


@pytest.mark.parametrize("versions", ["{", "[1]", "{}", "[" * 60_000, 3, None])
def test_a_file_of_a_pytorch_unknown_is_reused(tmp_path, caplog, versions):
    reused = write_result(tmp_path / "old.h5", WANTED)
    (_drop("package_versions") if versions is None else _set(package_versions=versions))(reused)
    (source,) = find(tmp_path / "mine", reuse=[reused]).sources
    assert source.made == "cpu, PyTorch of unknown version"


def test_a_bit_that_flips_anywhere_in_a_reused_file_is_seen(tmp_path, caplog):
    reused = write_result(tmp_path / "old.h5", WANTED)
    places = range(0, reused.stat().st_size, 101)
    for place in places:
        flip(reused, place)
        assert find(tmp_path / "mine", reuse=[reused]).sources == []
        flip(reused, place)
    assert len(caplog.records) == len(places)
    caplog.clear()
    assert len(find(tmp_path / "mine", reuse=[reused]).sources) == 1 and caplog.text == ""


def test_a_damaged_copy_does_not_hide_the_whole_file(tmp_path, caplog):
    whole = write_result(tmp_path / "whole.h5", WANTED)
    # A copy has the same seal.
    copy = Path(shutil.copy(whole, tmp_path / "copy.h5"))
    flip(copy)
    found = find(tmp_path / "mine", reuse=[copy, whole])
    assert [source.path for source in found.sources] == [str(whole)]
    assert caplog.messages == [f"{copy}: is not reused: damaged since it was written"]


def test_a_damaged_store_is_named_and_what_another_run_removes_meanwhile_is_not(
    tmp_path, caplog, monkeypatch
):
    own = write_stored(tmp_path / "mine", ["LL"])
    theirs = write_stored(tmp_path / "other", ["M"])
    flip(own)

    def read_late(path: Path) -> str:
        if path == theirs:
            path.unlink()
        return read_seal(path)

    monkeypatch.setattr("seqembed.checkpoints.find_sources.read_seal", read_late)
    assert find(tmp_path / "mine", stores=[theirs.parent]).sources == []
    assert [record.message for record in caplog.records] == [
        f"{own}: is not reused: damaged since it was written"
    ]


def test_reuse_names_files_by_path_and_pattern_each_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.h5", "b.h5", "deep/er/c.h5", "[x]/d.h5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "dangling.h5").symlink_to("none")
    patterns = [f"{tmp_path}/b.h5", f"{tmp_path}/*.h5", "~/deep/**/*.h5", f"{tmp_path}/[x]/d.h5"]
    names = [str(path.relative_to(tmp_path)) for path in list_reuse_files(patterns)]
    assert names == ["b.h5", "a.h5", "deep/er/c.h5", "[x]/d.h5"]
    assert list_reuse_files([]) == []


@pytest.mark.parametrize("name", ["none.h5", "*.hdf5", "folder.h5", "dangling.h5", ""])
def test_a_pattern_of_reuse_without_a_file_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "dangling.h5").symlink_to("none")
    (tmp_path / "a.h5").touch()
    with pytest.raises(ConfigError, match="^reuse: .*names no file; correct the path, or remove"):
        list_reuse_files(["a.h5", name])
    # A worker comes later, and does without.
    assert expand_reuse(["a.h5", name]) == [Path("a.h5")]


CONTENT = Sources(
    sources=[Source(path="/é.h5", seal="SEQEMBED1 5 x y", recipe=RECIPE.fingerprint, made="cpu")],
    passed_over=["SEQEMBED1 6 x z"],
    left={RECIPE.fingerprint: [0, 3]},
    recipes={RECIPE.fingerprint: RECIPE, FUSED.fingerprint: FUSED},
)


def test_sources_come_back_as_written(tmp_path):
    assert read_sources(tmp_path) == Sources()
    write_sources(tmp_path, replace(CONTENT, count=5, columns={"x": np.zeros(3, np.int32)}))
    assert read_sources(tmp_path) == CONTENT
    assert column_name(RECIPE.fingerprint) == f"source_{RECIPE.fingerprint[:12]}"


def test_damaged_sources_are_named_with_what_to_do(tmp_path):
    write_sources(tmp_path, CONTENT)
    path = tmp_path / SOURCES
    text = path.read_text()
    for damaged in ("", "{", "[]", text.replace("[\n", "[1,\n", 1), text.replace("mean", "med")):
        path.write_text(damaged)
        with pytest.raises(IndexFormatError, match=f"^{path}: damaged .*remove {tmp_path} and run"):
            read_sources(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(IndexFormatError, match=f"^{path}: damaged"):
        read_sources(tmp_path)


def test_folders_are_checkpoints_not_results():
    """A row that a result holds under any recipe may go to any shard."""
    sources = Sources(
        sources=[
            Source(path="a.h5", seal="x", recipe="r"),
            Source(path="f", seal="", recipe="r"),
            Source(path="g", seal="", recipe="s"),
        ],
        columns={
            "r": np.array([0, 1, -1, -1, 1], np.int32),
            "s": np.array([-1, -1, 2, -1, 2], np.int32),
        },
    )
    assert sources.folders(5).tolist() == [-1, 1, 2, -1, 1]
    assert sources.done(5).tolist() == [True, True, True, False, True]
    assert sources.count_held() == {"r": {"a.h5": 1, "f": 2}, "s": {"g": 2}}
    assert Sources().folders(2).tolist() == [-1, -1] and not Sources().done(2).any()


def test_the_log_of_a_finder_is_the_callers(tmp_path, caplog):
    flip(write_stored(tmp_path, WANTED))
    with caplog.at_level(logging.CRITICAL, LOGGER.name):
        find(tmp_path)
    assert caplog.text == ""
