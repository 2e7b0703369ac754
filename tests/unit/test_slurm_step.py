"""A worker starts itself again as a step of its job: here with an `srun` that only tells how it was
called. tests/slurm has the real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from worker_runs import EMBEDDING

from seqembed.machine.slurm_step import SRUN, keep_job

ENTRY = Path(__file__).parents[2] / "workflow/scripts/embed_shard.py"
SRUN_STAND_IN = '#!/bin/sh\nprintf "%s\\n" "$@"\nprintf "job %s\\n" "$SLURM_JOB_ID"\nexit 7\n'
WORDS = {
    "--index": "none.parquet",
    "--model": "none.json",
    "--rank": "0",
    "--world-size": "1",
    "--output": "results/work/shards/shard_0.h5",
    "--settings": json.dumps(EMBEDDING),
    "--execution": '{"device": "cpu", "token_budget": "auto"}',
    "--threads": "1",
    "--log": "worker.log",
}
COMMAND = [
    sys.executable,
    str(ENTRY),
    *(word for pair in WORDS.items() for word in pair),
]


@pytest.fixture
def srun(tmp_path):
    path = tmp_path / "bin/srun"
    path.parent.mkdir()
    path.write_text(SRUN_STAND_IN)
    path.chmod(0o755)
    return path


def embed_shard(folder: Path, *more: str, path: str = "", **variables: str):
    inherited = {name: value for name, value in os.environ.items() if "SLURM" not in name}
    environment = inherited | variables | {"PATH": path}
    return subprocess.run(
        [*COMMAND, *more], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_in_a_job_the_same_words_are_run_as_a_step(tmp_path, srun):
    done = embed_shard(tmp_path, "--own-step", path=str(srun.parent), SLURM_JOB_ID="17")
    assert done.returncode == 7
    *command, job = done.stdout.splitlines()
    start = command.index(sys.executable)
    assert command[:start] == list(SRUN[1:])
    assert command[start:] == COMMAND
    assert job == "job 17"
    assert "starting as a step of its own of job 17" in (tmp_path / "worker.log").read_text()


@pytest.mark.parametrize(
    ("more", "variables"), [((), {"SLURM_JOB_ID": "17"}), (("--own-step",), {})]
)
def test_elsewhere_it_goes_on_as_it_is(tmp_path, srun, more, variables):
    done = embed_shard(tmp_path, *more, path=str(srun.parent), **variables)
    assert done.returncode == 1 and "none.json" in done.stderr
    told = "job 17 of Slurm, on " in (tmp_path / "worker.log").read_text()
    assert told is bool(variables)


def test_without_srun_it_goes_on_and_says_so(tmp_path):
    done = embed_shard(tmp_path, "--own-step", path=str(tmp_path), SLURM_JOB_ID="17")
    assert done.returncode == 1 and "none.json" in done.stderr
    assert "no srun is on PATH" in done.stderr


def test_how_the_step_around_was_asked_for_is_forgotten():
    asked = {"SLURM_CPUS_PER_TASK": "4", "SLURM_TRES_PER_TASK": "cpu=4", "SRUN_DEBUG": "1"}
    kept = {"SLURM_JOB_ID": "17", "SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin"}
    others = {"CUDA_VISIBLE_DEVICES": "2", "SLURMD_NODENAME": "vm"}
    assert keep_job(asked | kept | others) == kept | others
