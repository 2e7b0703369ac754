"""Tell whether the process that wrote a heartbeat or an event still runs."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

SQUEUE_SECONDS = 20.0
# So often at most, Slurm's controller is asked.
ASK_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a process ran that wrote a file; written: when, by the clock of that machine.

    host, pid: the machine and the process. slurm_job: None outside of Slurm. written: in seconds
    (Unix). owner: the user id of the file.
    """

    host: str
    pid: int
    slurm_job: str | None
    written: float
    owner: int


class Liveness:
    """Knows which processes run: those of this machine, and those of Slurm jobs.

    clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._host, self._clock = platform.node(), clock
        self._jobs: set[str] | None = None
        # The jobs that Slurm was asked about, and when.
        self._about: set[str] = set()
        self._asked = self._clock() - ASK_SECONDS

    def ask(self, places: Iterable[Place]) -> None:
        """Ask Slurm about the jobs in `places` on other machines, unless it was just asked."""
        far = [place for place in places if place.slurm_job and place.host != self._host]
        jobs, now = {str(place.slurm_job) for place in far}, self._clock()
        if far and (not jobs <= self._about or now - self._asked >= ASK_SECONDS):
            self._jobs, self._about, self._asked = list_slurm_jobs(p.owner for p in far), jobs, now

    def is_running(self, place: Place) -> bool | None:
        """Whether a process still runs; None if that cannot be known from here."""
        if place.host == self._host:
            return is_running_here(place.pid, place.written)
        if place.slurm_job and self._jobs is not None:
            return place.slurm_job in self._jobs
        return None


def is_running_here(pid: int, written: float) -> bool:
    """Whether the process that had the number `pid` on this machine at a time still runs.

    written: that time, in seconds (Unix). A later process of the same number does not count, nor
    does one that has ended and waits for its parent.
    """
    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        # The kernel's time of a start may be a little off.
        return not ended and float(process.create_time()) < written + 2
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def list_slurm_jobs(owners: Iterable[int]) -> set[str] | None:
    """Return the numbers of the users' Slurm jobs that wait or run; None if Slurm does not say."""
    users = ",".join(map(str, sorted(set(owners))))
    if not (squeue := shutil.which("squeue")):
        return None
    command = [squeue, "--noheader", "--format=%A", f"--user={users}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SQUEUE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else set(done.stdout.split())
