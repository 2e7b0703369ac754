"""Handle the signals that ask a process to stop, also those of Slurm and of its parent's end."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from seqembed.errors import InterruptedRun

RUN_AGAIN = "what is finished is kept, run again to go on"
STOPPED = f"stopped by a signal; {RUN_AGAIN}"
# linux/prctl.h
PR_SET_PDEATHSIG = 1
# An option of embed_shard.py.
OWN_STEP = "--own-step"
# The step shares all resources with the step that starts it. Slurm before 22.05 shares no GPU:
# there srun gives up after 300 seconds, instead of waiting until the job ends.
SRUN = ("srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=quiet,none", "--immediate=300")
# Slurm's other variables hold options of the present step, which srun would apply to the new step.
KEPT = frozenset({"SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_JOBID"})


class StopFlag:
    """Records that SIGTERM came, or SIGINT if `ctrl_c`; these signals no longer end the process."""

    def __init__(self, *, ctrl_c: bool = False) -> None:
        self._raised = False
        signal.signal(signal.SIGTERM, self._raise)
        if ctrl_c:
            signal.signal(signal.SIGINT, self._raise)

    def _raise(self, number: int, frame: Any) -> None:
        # A second signal may interrupt this handler: only setting a flag is safe here.
        self._raised = True

    def asked(self) -> bool:
        """Whether a handled signal came."""
        return self._raised

    def leave_if_asked(self) -> None:
        """Raise InterruptedRun if a handled signal came."""
        if self._raised:
            raise InterruptedRun(STOPPED)


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Have the kernel send the signal `number` to this process when its parent ends.

    parent: the parent's pid; if the parent has ended already, the signal comes at once. Raises
    OSError if the kernel refuses.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl: {os.strerror(code)}")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def become_own_step(environ: Mapping[str, str], logger: logging.Logger) -> None:
    """Replace this process by `srun`, which runs the program, without OWN_STEP, as a Slurm step.

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
            "srun is not on PATH: at a time limit, rows since the last checkpoint are lost"
        )


def keep_job(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the options of Slurm steps; the variables KEPT stay."""
    options = ("SLURM_", "SRUN_")
    return {k: v for k, v in environ.items() if k in KEPT or not k.startswith(options)}
