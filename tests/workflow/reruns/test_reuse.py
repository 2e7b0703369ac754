"""Rows that another run computed are taken: of other shards, other datasets, earlier results."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import h5py
import pytest
from driver import Place, make_proteins, read_rows, write_fasta
from safetensors.numpy import load_file

from seqembed.storage.digests import digest_all

RESULT = "results/work/embeddings.h5"
COUNT = 60
# Lengths of sequences that take long enough to kill the worker in the middle.
LONG = (590, 610)
INTERVAL = 5


def configure(place: Place, model: str, shards: int = 2, **changes) -> None:
    """A dataset `work`; changes: of it, or all datasets."""
    work = {"fasta": "work.faa", "model": "esm2_random"}
    datasets = changes.pop("datasets", {"work": work | changes})
    place.configure(
        datasets=datasets,
        models={"esm2_random": model},
        shards=shards,
        device="cpu",
        execution={"token_budget": 700, "checkpoint": {"sequences": INTERVAL, "seconds": 1000}},
    )


def edit(proteins: Mapping[str, str]) -> dict[str, str]:
    """10 new proteins, 5 removed, 4 edited, in another order: 14 to compute."""
    names = sorted(proteins)
    kept = {name: proteins[name] for name in reversed(names[5:])}
    kept |= {name: proteins[name] + "MK" for name in names[10:14]}
    new = make_proteins(10, seed=9)
    return {f"new_{name}": residues for name, residues in new.items()} | kept


@pytest.fixture(scope="module")
def first(open_place, model, tmp_path_factory) -> Place:
    """A finished run of COUNT proteins."""
    place = open_place(tmp_path_factory.mktemp("first") / "run")
    write_fasta(place.folder / "work.faa", make_proteins(COUNT))
    configure(place, model)
    assert place.run().computed == COUNT
    assert place.plan().nothing_to_do
    return place


@pytest.fixture(scope="module")
def edited(open_place, model, tmp_path_factory) -> Place:
    """The edited proteins, from nothing."""
    place = open_place(tmp_path_factory.mktemp("edited") / "run")
    write_fasta(place.folder / "work.faa", edit(make_proteins(COUNT)))
    configure(place, model)
    assert place.run().computed == COUNT + 5
    return place


@pytest.fixture
def finished(first, tmp_path) -> Place:
    return first.copy_to(tmp_path / "run")


def read_log(place: Place, name: str) -> str:
    return (place.folder / f"logs/work/{name}.log").read_text()


def assert_same(place: Place, expected: Place) -> None:
    assert read_rows(place.folder / RESULT) == read_rows(expected.folder / RESULT)


def test_another_number_of_shards_computes_nothing(finished, first, model):
    configure(finished, model, shards=3)
    outcome = finished.run()
    assert [new for new, _ in outcome.embedded.values()] == [0, 0, 0]
    assert outcome.reused == COUNT
    assert_same(finished, first)


def test_of_an_edited_fasta_only_what_is_new_is_computed(finished, edited):
    write_fasta(finished.folder / "work.faa", edit(make_proteins(COUNT)))
    outcome = finished.run()
    assert (outcome.computed, outcome.reused) == (14, COUNT - 9)
    # The work that is left is shared evenly.
    assert [new for new, _ in outcome.embedded.values()] == [7, 7]
    assert_same(finished, edited)


def test_a_dataset_beside_another_takes_its_rows(first, edited, model, tmp_path):
    """The second dataset is split before the first has a store."""
    place = open_again(first, tmp_path / "run")
    write_fasta(place.folder / "other.faa", edit(make_proteins(COUNT)))
    own = {"fasta": "work.faa", "model": "esm2_random"}
    configure(place, model, datasets={"work": own, "other": own | {"fasta": "other.faa"}})
    place.run("results/other/index")
    assert not (place.folder / "results/work").exists()
    outcome = place.run(RESULT)
    assert outcome.computed == COUNT
    outcome = place.run()
    assert (outcome.computed, outcome.reused) == (14, COUNT - 9)
    found = read_rows(place.folder / "results/other/embeddings.h5")
    assert found == read_rows(edited.folder / RESULT)


def open_again(place: Place, folder: Path) -> Place:
    """The place as it was before its run."""
    copy = place.copy_to(folder)
    for name in ("results", "logs"):
        shutil.rmtree(copy.folder / name)
    return copy


@pytest.fixture
def fresh(edited, first, model, tmp_path) -> Place:
    """A place without results, and a copy of an earlier result in another folder."""
    place = open_again(edited, tmp_path / "run")
    copy = tmp_path / "elsewhere/old.h5"
    copy.parent.mkdir()
    shutil.copy(first.folder / RESULT, copy)
    configure(place, model, reuse=[str(copy.parent / "*.h5")])
    return place


def test_a_copied_result_is_reused_and_another_setting_triggers_nothing(fresh, edited, model):
    outcome = fresh.run()
    assert (outcome.computed, outcome.reused) == (14, COUNT - 9)
    assert_same(fresh, edited)
    shutil.rmtree(fresh.folder.parent / "elsewhere")
    configure(fresh, model, reuse=["elsewhere/*.h5", "missing.h5"])
    assert fresh.plan().nothing_to_do


def test_a_damaged_result_is_refused_whole(fresh, edited):
    path = fresh.folder.parent / "elsewhere/old.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    outcome = fresh.run()
    assert (outcome.computed, outcome.reused) == (COUNT + 5, 0)
    assert f"{path}: is not reused: damaged" in read_log(fresh, "split")
    assert_same(fresh, edited)


def test_a_missing_result_is_refused_before_anything_is_computed(fresh, model):
    configure(fresh, model, reuse="gone/old.h5")
    outcome = fresh.run(ok=False)
    assert ": reuse: gone/old.h5 names no file" in outcome.text
    assert not (fresh.folder / "results/work/shards").exists()


def test_rows_of_a_cpu_are_not_for_a_gpu(fresh):
    """To the split only: the worker needs the GPU."""
    fresh.run("results/work/index", "--config", "device=cuda")
    log = read_log(fresh, "split")
    assert "old.h5: is not reused: device is 'cpu', and 'cuda' in this dataset" in log
    assert "to compute: " not in log


@pytest.fixture(scope="module")
def killed(open_place, model, tmp_path_factory) -> Place:
    """A run under four shards, killed when one is finished and others are half done."""
    place = open_place(tmp_path_factory.mktemp("killed") / "run")
    write_fasta(place.folder / "work.faa", make_proteins(COUNT * 2, lengths=LONG))
    configure(place, model, shards=4)
    with place.start(cores=2) as driver:
        driver.wait_until(lambda: is_half_done(place), "half is done")
        driver.signal_all(signal.SIGKILL)
        driver.wait_for_end(seconds=5)
    place.run("--unlock")
    return place


def is_half_done(place: Place) -> bool:
    folders = place.folder.glob("results/work/checkpoints/*/shard_*")
    numbers = [len(list(folder.glob("batch_*.safetensors"))) for folder in folders]
    return len(numbers) > 2 and sum(numbers) >= 2


def find_held(place: Place) -> set[bytes]:
    """The digests of all rows in blocks and in finished shards."""
    folder = place.folder / "results/work/checkpoints"
    blocks = [load_file(path)["digests"] for path in folder.glob("*/*/batch_*.safetensors")]
    for path in folder.glob("*/*/shard_*.h5"):
        with h5py.File(path, locking=False) as file:
            blocks.append(file["digests"][:])
    return {row.tobytes() for block in blocks for row in block}


def test_killed_under_four_shards_and_finished_under_three(killed, model, tmp_path):
    """All that was in a checkpoint counts, and so does what a third run finds of both."""
    place, proteins = killed.copy_to(tmp_path / "run"), make_proteins(COUNT * 2, lengths=LONG)
    new = make_proteins(8, lengths=LONG, seed=5)
    proteins = dict(list(proteins.items())[10:]) | {f"n{n}": text for n, text in new.items()}
    write_fasta(place.folder / "work.faa", proteins)
    held = len(find_held(place) & set(digest_all(text.encode() for text in proteins.values())))
    assert held > COUNT // 4
    configure(place, model, shards=3)
    assert place.run().computed == len(proteins) - held
    assert not (place.folder / "results/work/checkpoints").exists()
    expected = open_again(killed, tmp_path / "expected")
    write_fasta(expected.folder / "work.faa", proteins)
    configure(expected, model, shards=1)
    assert expected.run().computed == len(proteins)
    assert_same(place, expected)
