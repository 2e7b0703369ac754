"""Projects for the cluster, their runs, and what is read from the runs' logs."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from driver import ROOT, Driver, Place, copy_checkout, make_proteins, read_rows, write_fasta

LOG, KEPT = "logs/work/worker_0.log", "kept"
RESULT = "results/work/embeddings.h5"
PROFILE = "profiles/slurm/config.yaml"
# There is no time for the default 40 s.
QUICK = ("--slurm-init-seconds-before-status-checks=4",)
# Never due: a checkpoint is written only because the run has to end.
NOT_DUE = {"sequences": 1_000_000, "seconds": 100_000}
RUN_SECONDS = 600
# What a user edits, for a node of this size. Its GPUs compute nothing: the job asks for one, and
# the worker uses the CPU.
EDITS = {
    "8000 * attempt": "700 * attempt",
    "32000 * attempt": "1500 * attempt",
    "embed_shard: 4": "embed_shard: 2",
    '    # gpu_model: "a100"': "    gpu: 1",
}

_DONE = re.compile(r"([0-9,]+) of [0-9,]+ sequences done")
_SECONDS = re.compile(r"tokens were computed in ([0-9.]+) seconds")
# A worker tells it when it begins; of a shard that was whole before, the last line tells it.
_BEFORE = re.compile(r"([0-9,]+) (?:sequences were )?finished before")


@dataclass(frozen=True)
class Project:
    """A checkout with its configuration, sequences and index; the expected rows, and the speed of
    one core.
    """

    folder: Path
    rows: tuple[list[str], bytes]
    sequences_per_second: float

    def copy_to(self, folder: Path, environment: Mapping[str, str]) -> Place:
        shutil.copytree(self.folder, folder, symlinks=True)
        return Place(folder, folder, environment)


def make_project(folder: Path, count: int) -> Project:
    """`count` proteins; embedded here on one core, then all results but the split are removed.

    The merge has removed the shards and the checkpoints.
    """
    place = Place(copy_checkout(folder), folder)
    write_fasta(folder / "work.faa", make_proteins(count, lengths=(250, 350)))
    configure(place)
    edit_profile(place, EDITS)
    place.run(cores=1)
    rows = read_rows(folder / RESULT)
    (seconds,) = _SECONDS.findall((folder / LOG).read_text())
    for name in ("store", "recipes"):
        shutil.rmtree(folder / "results/work" / name)
    (folder / RESULT).unlink()
    shutil.rmtree(folder / "logs")
    return Project(folder, rows, count / float(seconds))


def configure(place: Place, **changes: object) -> None:
    place.configure(
        **{
            "datasets": {"work": {"fasta": "work.faa", "model": "demo"}},
            "models": {"demo": "resources/models/esm2_demo"},
            "shards": 1,
            "device": "cpu",
            "execution": {"checkpoint": NOT_DUE},
        }
        | changes
    )


def edit_profile(place: Place, edits: Mapping[str, str]) -> None:
    path = place.folder / PROFILE
    text = path.read_text()
    for old, new in edits.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


@contextmanager
def submitted(place: Place, *arguments: str) -> Iterator[Driver]:
    """Start a run with the profile; keep the log of each worker of rank 0."""
    with (
        kept_logs(place),
        place.start("--profile", "profiles/slurm", *QUICK, *arguments, cores=None) as driver,
    ):
        yield driver


@contextmanager
def kept_logs(place: Place) -> Iterator[None]:
    """Give each log of rank 0 a second name: Snakemake removes it before it tries a job again."""
    (place.folder / KEPT).mkdir(exist_ok=True)
    ended = threading.Event()
    keeper = threading.Thread(target=_keep_logs, args=(place.folder, ended))
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()


def _keep_logs(folder: Path, ended: threading.Event) -> None:
    seen = {path.stat().st_ino for path in (folder / KEPT).iterdir()}
    while not ended.wait(0.05):
        with suppress(FileNotFoundError):
            if (inode := (folder / LOG).stat().st_ino) not in seen:
                os.link(folder / LOG, folder / KEPT / f"{len(seen):03d}.log")
                # The second name keeps the inode's number from being used again.
                seen.add(inode)


def finish(driver: Driver, *, ok: bool = True) -> str:
    """Wait for the end of the run; return its output."""
    text = driver.communicate(timeout=RUN_SECONDS)[0]
    assert (driver.returncode == 0) is ok, text
    return text


def read_batch_script() -> str:
    """The batch script of docs/clusters.md, for the environment that the tests run in."""
    text = (ROOT / "docs/clusters.md").read_text()
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", text, re.DOTALL)
    for size, here in (("--cores 16", "--cores 2"), ("task=16", "task=2"), ("mem=64G", "mem=4G")):
        assert script.count(size) == 1
        script = script.replace(size, here)
    return script


def attempts(place: Place) -> list[str]:
    """The log of each worker of rank 0."""
    return [path.read_text() for path in sorted((place.folder / KEPT).iterdir())]


def is_computing(place: Place, attempt: int = 1) -> bool:
    """Whether `attempt` workers of rank 0 have begun to compute."""
    return "".join(attempts(place)).count("batches are to be computed") >= attempt


def lost(place: Place) -> list[int]:
    """How many sequences each attempt but the last computed in vain."""
    parts = attempts(place)
    done = [_number(_DONE.findall(part)[-1]) for part in parts[:-1]]
    kept = [_number(_BEFORE.findall(part)[0]) for part in parts[1:]]
    return [before - after for before, after in zip(done, kept, strict=True)]


def _number(text: str) -> int:
    return int(text.replace(",", ""))
