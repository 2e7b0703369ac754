"""Run a worker as a step of its own of its Slurm job, so that it gets the job's signals."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

OWN_STEP = "--own-step"
# The step shares all that the job has with the step that starts it. Slurm before 22.05 shares no
# GPU: srun gives up there after 300 seconds, where it would wait until the job's end.
SRUN = ("srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=quiet,none", "--immediate=300")
# Slurm's other variables hold the options of the step around us, which srun would apply again.
KEPT = frozenset({"SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_JOBID"})


def become_own_step(environ: Mapping[str, str], logger: logging.Logger) -> None:
    """Run this program again, without OWN_STEP, as a Slurm step of its own, which gets signals.

    At a time limit, an scancel, a requeue or a preemption Slurm sends SIGTERM only to the first
    process of each step; in a Snakemake job that is Snakemake, which just waits for its program.
    Returns only where there is no `srun`, with a warning.
    """
    # If srun fails, only Slurm's own log says why.
    logger.info("starting as a step of its own of job %s of Slurm", environ.get("SLURM_JOB_ID"))
    command = [*SRUN, sys.executable, *(word for word in sys.orig_argv[1:] if word != OWN_STEP)]
    try:
        os.execvpe(command[0], command, keep_job(environ))
    except FileNotFoundError:
        logger.warning("no srun is on PATH: at a time limit, what came since a checkpoint is lost")


def keep_job(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the options of Slurm's steps; the job's id stays."""
    options = ("SLURM_", "SRUN_")
    return {k: v for k, v in environ.items() if k in KEPT or not k.startswith(options)}
