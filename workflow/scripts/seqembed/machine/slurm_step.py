"""Run this program as a Slurm step of its own, so that the program gets the job's signals."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

OWN_STEP = "--own-step"
# The step shares all resources with the step that starts it. Slurm before 22.05 shares no GPU:
# there srun gives up after 300 seconds, instead of waiting until the job ends.
SRUN = ("srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=quiet,none", "--immediate=300")
# Slurm's other variables hold options of the present step, which srun would apply to the new step.
KEPT = frozenset({"SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_JOBID"})


def become_own_step(environ: Mapping[str, str], logger: logging.Logger) -> None:
    """Replace this process by `srun`, which runs the same command, without --own-step, as a step.

    At a time limit, scancel, requeue or preemption, Slurm sends SIGTERM only to the first process
    of each step. In a Snakemake job that process is Snakemake, which does not pass the signal on.
    If there is no `srun`, this function logs a warning and returns.
    """
    # If srun fails, only Slurm's own log has the reason.
    logger.info("starting a Slurm step of its own in job %s", environ.get("SLURM_JOB_ID"))
    command = [*SRUN, sys.executable, *(word for word in sys.orig_argv[1:] if word != OWN_STEP)]
    try:
        os.execvpe(command[0], command, keep_job(environ))
    except FileNotFoundError:
        logger.warning(
            "srun is not on PATH: at a time limit, rows since the last checkpoint are lost; to "
            "keep them, put srun on PATH"
        )


def keep_job(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without Slurm's variables, but with those in KEPT: cluster and job."""
    options = ("SLURM_", "SRUN_")
    return {k: v for k, v in environ.items() if k in KEPT or not k.startswith(options)}
