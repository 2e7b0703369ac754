"""Programs run at once, each in a fresh process, and the most memory that each took."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# As Snakemake sets them for a job of so many threads.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Ended(NamedTuple):
    """stdout, and the peak in MB of the resident memory of the largest process."""

    stdout: str
    peak_mb: float


def environment(threads: int, variables: Mapping[str, str]) -> dict[str, str]:
    """Ours, offline, with glibc's allocator as it comes unless `variables` say otherwise."""
    kept = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    limits = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return kept | limits | {"HF_HUB_OFFLINE": "1"} | variables


def run_together(
    commands: Sequence[Sequence[str]], folder: Path, variables: Mapping[str, str]
) -> list[Ended]:
    """Start all commands, wait for all; what they print goes to files in `folder`.

    Raises SystemExit with the end of its stderr where one fails.
    """
    started = []
    for number, command in enumerate(commands):
        with open(folder / f"{number}.out", "wb") as out, open(folder / f"{number}.err", "wb") as e:
            process = subprocess.Popen(command, stdout=out, stderr=e, env=variables)
        started.append(process)
    return [_wait(process, folder, number) for number, process in enumerate(started)]


def run(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Ended:
    (ended,) = run_together([command], folder, variables)
    return ended


def _wait(process: subprocess.Popen[bytes], folder: Path, number: int) -> Ended:
    # Of the processes that it waited for, too: the worker is our entry's child.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        told = (folder / f"{number}.err").read_text(errors="replace")[-3000:]
        raise SystemExit(f"failed: {process.args}\n{told}")
    return Ended((folder / f"{number}.out").read_text(), usage.ru_maxrss / 1000)
