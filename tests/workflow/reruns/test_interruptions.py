"""Runs that are cut off lose no finished block, leave no process, and end in the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from driver import Place, make_proteins, read_rows, write_fasta

pytestmark = pytest.mark.timing

COUNT = 200
RESULT = "results/work/embeddings.h5"
LOG = "logs/work/worker_0.log"
# Never due: a block that is there all the same was written because the run was to end.
NOT_DUE = {"sequences": 1_000_000, "seconds": 100_000}
# Within these an orphan has written its block and is gone.
ORPHAN_SECONDS = 10


# One core: threads that wait for each other crawl where other programs run, too.
def configure(place: Place, model: str, checkpoint: dict[str, int]) -> None:
    place.configure(
        datasets={"work": {"fasta": "work.faa", "model": "esm2_random"}},
        models={"esm2_random": model},
        shards=1,
        device="cpu",
        execution={"token_budget": 700, "checkpoint": checkpoint},
    )


@pytest.fixture(scope="module")
def undisturbed(open_place, model, tmp_path_factory):
    place = open_place(tmp_path_factory.mktemp("undisturbed") / "run")
    write_fasta(place.folder / "work.faa", make_proteins(COUNT, lengths=(590, 610)))
    configure(place, model, {"sequences": 5, "seconds": 1000})
    assert place.run(cores=1).computed == COUNT
    return place


@pytest.fixture
def indexed(undisturbed, tmp_path):
    """The same before its sequences were embedded. The merge has removed shards and checkpoints."""
    place = undisturbed.copy_to(tmp_path / "run")
    work = place.folder / "results/work"
    for name in ("store", "recipes"):
        shutil.rmtree(work / name)
    (work / "embeddings.h5").unlink()
    (place.folder / LOG).unlink()
    return place


def blocks(place: Place) -> list[Path]:
    return list(place.folder.glob("results/work/checkpoints/*/shard_0/batch_*.safetensors"))


def is_computing(place: Place) -> bool:
    """Whether a batch has begun: a signal lets it end, and writes a checkpoint of it."""
    return any(place.folder.glob("results/work/checkpoints/*/shard_0/in_flight.json"))


def finish(place: Place, undisturbed: Place) -> int:
    """Run to the end, compare with the undisturbed run; return how many were computed."""
    outcome = place.run(cores=1)
    ((computed, finished),) = outcome.embedded.values()
    assert computed + finished == COUNT
    assert read_rows(place.folder / RESULT) == read_rows(undisturbed.folder / RESULT)
    return computed


def test_a_run_killed_three_times_ends_in_the_same_bytes(indexed, undisturbed):
    killed = []
    for more in (0, 1, 8):
        wanted = len(blocks(indexed)) + more
        with indexed.start(cores=1) as driver:
            driver.wait_until(lambda: is_computing(indexed), "the worker computes")
            driver.wait_until(lambda: len(blocks(indexed)) >= wanted, f"{wanted} blocks")  # noqa: B023
            driver.signal_all(signal.SIGKILL)
            assert driver.wait() == -signal.SIGKILL
            driver.wait_for_end(seconds=5)
        killed.append(len(blocks(indexed)))
        assert not (indexed.folder / "results/work/shards/shard_0.h5").exists()
        indexed.run("--unlock")
    assert killed[0] < killed[1] < killed[2]
    # As if the last kill came between the shard's end and Snakemake's note of it.
    (indexed.folder / "results/work/shards/shard_0.h5").write_bytes(b"half")
    assert 0 < finish(indexed, undisturbed) < COUNT - 5 * 8


def test_workers_outlive_their_driver_by_a_checkpoint_only(indexed, model):
    configure(indexed, model, NOT_DUE)
    with indexed.start(cores=1) as driver:
        driver.wait_until(lambda: is_computing(indexed), "the worker computes")
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait_for_end(seconds=ORPHAN_SECONDS)
    assert blocks(indexed)
    assert "interrupted" in (indexed.folder / LOG).read_text()


def test_ctrl_c_writes_a_checkpoint_and_the_next_run_goes_on(indexed, undisturbed, model):
    configure(indexed, model, NOT_DUE)
    with indexed.start(cores=1) as driver:
        driver.wait_until(lambda: is_computing(indexed), "the worker computes")
        driver.signal_all(signal.SIGINT)
        text = driver.communicate(timeout=30)[0]
        driver.wait_for_end(seconds=5)
    assert driver.returncode != 0
    assert "stopped by a signal; what is finished is kept, run again to go on" in text
    assert "Traceback" not in text
    assert blocks(indexed)
    assert 0 < finish(indexed, undisturbed) < COUNT
