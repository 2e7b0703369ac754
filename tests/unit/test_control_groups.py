"""Memory limits of control groups, the count of kills, and a worker that the kernel kills."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from worker_runs import embed_command, make_project, make_sequences

from seqembed.machine.control_groups import GROUPS, OWN_GROUPS, count_oom_kills, memory_limit

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
V2 = "low 0\nhigh 0\nmax 12\noom 4\noom_kill {}\noom_group_kill 0\n"
MEMORY = GROUPS / "memory"


@pytest.fixture
def write(tmp_path):
    """Writes /proc/self/cgroup and files of groups; gives the arguments that name both."""

    def written(own: str, files: Mapping[str, str]) -> tuple[Path, Path]:
        (tmp_path / "cgroup").write_text(own)
        for name, text in files.items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(text)
        return tmp_path / "cgroup", tmp_path / "groups"

    return written


@pytest.mark.parametrize(
    ("own", "place", "text"),
    [
        ("0::/user.slice/job_7\n", "user.slice/job_7/memory.events", V2),
        ("0::/kubepods/x\n", "memory.events", V2),
        ("9:cpu:/a\n4:memory:/job\n0::/\n", "memory/job/memory.oom_control", V1),
        ("4:cpuset,memory:/job\n", "memory/job/memory.oom_control", V1),
    ],
)
def test_the_count_is_found_in_both_versions(own, place, text, write):
    assert count_oom_kills(*write(own, {place: text.format(3)})) == 3


@pytest.mark.parametrize("text", [None, "", "oom 1\n", "oom_kill x\n"])
def test_without_a_count_there_is_none(text, write):
    own, groups = write("0::/a\n", {} if text is None else {"a/memory.events": text})
    assert count_oom_kills(own, groups) is None
    assert count_oom_kills(groups / "none", groups) is None


@pytest.mark.parametrize(
    ("own", "limits", "found"),
    [
        ("0::/slurm/job_1/step_0\n", {"slurm/job_1/memory.max": "500\n"}, 500),
        ("0::/a/b\n", {"a/memory.max": "700\n", "a/b/memory.max": "max\n"}, 700),
        ("0::/a\n", {"a/memory.max": "max\n"}, None),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "90\n"}, 90),
        ("4:memory:/a\n", {}, None),
    ],
)
def test_memory_limit_is_the_lowest_of_nested_groups(own, limits, found, write):
    assert memory_limit(*write(own, limits)) == found


def measure_pytorch() -> int:
    """The memory of a process that imported PyTorch, in bytes; CUDA builds take twice as much."""
    command = "import psutil, torch; m = psutil.Process().memory_info(); print(m.rss - m.shared)"
    return int(subprocess.check_output([sys.executable, "-c", command]))


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group, of version 1 or 2, that may hold PyTorch and 160 MiB."""
    own = dict(reversed(line.split(":", 2)[1:]) for line in OWN_GROUPS.read_text().splitlines())
    version_1 = next((g for g, names in own.items() if "memory" in names.split(",")), None)
    parent = MEMORY / version_1.lstrip("/") if version_1 else GROUPS / next(iter(own)).lstrip("/")
    folder = parent / f"seqembed_test_{os.getpid()}"
    try:
        folder.mkdir()
        limit = "memory.limit_in_bytes" if version_1 else "memory.max"
        (folder / limit).write_text(str(measure_pytorch() + (160 << 20)))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"needs the right to make a control group: {error}")
    yield folder
    folder.rmdir()


def test_a_worker_killed_by_the_kernel_goes_on_with_smaller_batches(
    group, prepared_model, tmp_path
):
    project = make_project(tmp_path / "shard", prepared_model, make_sequences([300] * 200))

    def embed(token_budget: int, **how: Any) -> subprocess.CompletedProcess:
        files = (project.index(), prepared_model, project.output / "shard_0.h5", project.log)
        command = embed_command(*files, token_budget=token_budget)
        return subprocess.run(command, capture_output=True, text=True, **how)

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    done = embed(1_000_000, preexec_fn=enter)
    assert done.returncode == 0, done.stderr
    assert "was killed by the kernel, because memory ran out; a fresh worker goes on" in done.stderr
    log = project.log.read_text()
    assert "out of memory in a batch of 60,400 tokens: batches hold at most 30,200" in log
    assert "failed alone" not in log and "quarantined" not in log
    rows = project.content()
    shutil.rmtree(project.results / "checkpoints")
    assert embed(2048).returncode == 0
    assert project.content() == rows
