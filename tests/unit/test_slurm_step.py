"""What stops a process: the end of its parent, and Slurm's signals to a step of its own.

The `srun` here only says how it was called; tests/slurm has the real one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from worker_runs import SCRIPTS, embed_command

from seqembed.machine.slurm_step import SRUN, keep_job

PROGRAM = """\
import os, signal
from seqembed.machine.signals import die_with_parent
die_with_parent({parent}, signal.SIGTERM)
"""
SRUN_STAND_IN = '#!/bin/sh\nprintf "%s\\n" "$@"\nprintf "job %s\\n" "$SLURM_JOB_ID"\nexit 7\n'
FILES = ("none.parquet", "none.json", "results/work/shards/shard_0.h5", "worker.log")
COMMAND = embed_command(*map(Path, FILES))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no prctl")
@pytest.mark.parametrize(
    # The second is never its own parent.
    ("parent", "code"),
    [("os.getppid()", 0), ("os.getpid()", -signal.SIGTERM)],
)
def test_a_process_whose_parent_is_gone_already_ends_at_once(parent, code):
    command = [sys.executable, "-c", PROGRAM.format(parent=parent)]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    assert subprocess.run(command, env=environment).returncode == code


@pytest.fixture
def embed_shard(tmp_path):
    """Runs embed_shard.py with the environment variables given, and a stand-in of srun on PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/srun").write_text(SRUN_STAND_IN)
    (tmp_path / "bin/srun").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if "SLURM" not in name}

    def run(*more: str, **variables: str) -> subprocess.CompletedProcess:
        environment = kept | {"PATH": str(tmp_path / "bin")} | variables
        command = [*COMMAND, *more]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


def test_in_a_slurm_job_the_same_command_runs_as_a_step(tmp_path, embed_shard):
    done = embed_shard("--own-step", SLURM_JOB_ID="17")
    assert done.returncode == 7
    assert done.stdout.splitlines() == [*SRUN[1:], *COMMAND, "job 17"]
    assert "starting a Slurm step of its own in job 17" in (tmp_path / "worker.log").read_text()


@pytest.mark.parametrize(
    ("more", "variables"),
    [((), {"SLURM_JOB_ID": "17"}), (("--own-step",), {})],
)
def test_without_the_option_or_a_job_no_step_starts(tmp_path, embed_shard, more, variables):
    done = embed_shard(*more, **variables)
    assert done.returncode == 1 and "none.json" in done.stderr
    named = "Slurm job 17 on " in (tmp_path / "worker.log").read_text()
    assert named is bool(variables)


def test_without_srun_the_run_goes_on_with_a_warning(embed_shard):
    done = embed_shard("--own-step", PATH="", SLURM_JOB_ID="17")
    assert done.returncode == 1 and "none.json" in done.stderr
    assert "srun is not on PATH" in done.stderr


def test_a_step_forgets_how_the_step_around_it_was_asked_for():
    asked = {"SLURM_CPUS_PER_TASK": "4", "SLURM_TRES_PER_TASK": "cpu=4", "SRUN_DEBUG": "1"}
    kept = {"SLURM_JOB_ID": "17", "SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin"}
    others = {"CUDA_VISIBLE_DEVICES": "2", "SLURMD_NODENAME": "vm"}
    assert keep_job(asked | kept | others) == kept | others
