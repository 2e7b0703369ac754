"""Signals that ask a process to stop: from users, from Slurm, and when its parent ends."""

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

OWN_STEP = "--own-step"
# The step shares all that the job has with the step that starts it. Slurm before 22.05 shares no
# GPU: srun gives up there after 300 seconds, where it would wait until the job's end.
SRUN = ("srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=quiet,none", "--immediate=300")
# Slurm's other variables hold the options of the step around this one; srun would apply them again.
KEPT = frozenset({"SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_JOBID"})


class StopFlag:
    """Records that SIGTERM came, or SIGINT if `ctrl_c`; the signal no longer ends the process."""

    def __init__(self, *, ctrl_c: bool = False) -> None:
        self._raised = False
        signal.signal(signal.SIGTERM, self._raise)
        if ctrl_c:
            signal.signal(signal.SIGINT, self._raise)

    def _raise(self, number: int, frame: Any) -> None:
        # A signal may come twice in an instant: nothing but setting a flag is safe here.
        self._raised = True

    def asked(self) -> bool:
        """Whether a signal came."""
        return self._raised

    def leave_if_asked(self) -> None:
        """Raise InterruptedRun if a signal came."""
        if self._raised:
            raise InterruptedRun(STOPPED)


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Have the kernel send the signal `number` to this process when its parent ends.

    parent: the parent's pid; if that process is gone already, the signal is sent at once. Does
    nothing on systems other than Linux.
    """
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl: {os.strerror(code)}")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


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
