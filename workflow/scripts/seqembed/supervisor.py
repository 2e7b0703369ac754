"""The supervisor: gives a worker its GPU and a process of its own, and acts on how it ends.

It is the only one in its process, whose signals and environment it sets. It never touches CUDA
itself, so that what the worker sees is decided before CUDA starts.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from seqembed.environment import EnvConfig
from seqembed.machine.control_groups import count_oom_kills
from seqembed.machine.devices import lease_device
from seqembed.machine.signals import StopFlag, die_with_parent
from seqembed.worker_ends import WorkerEnd

POLL_SECONDS = 0.2
# Slurm's KillWait is 30 s by default: the worker's checkpoint has to be written before.
GRACE_SECONDS = 25.0
# Nobody waits for an orphan, and the next run may start at once.
ORPHAN_GRACE_SECONDS = 5.0

# These keep a worker's memory from growing from batch to batch. Small blocks among large ones keep
# these from joining when they are freed: glibc keeps freed blocks for reuse, and oneDNN the code
# that it compiled for each of 1,024 shapes, of which every batch has its own. Arrow's own allocator
# keeps what is returned to it. Large blocks stay with the process: the next batch needs them again,
# and the system clears each page that it gives.
TUNABLES = ":".join(
    (
        "glibc.malloc.tcache_count=0",
        "glibc.malloc.mxfast=0",
        "glibc.malloc.mmap_max=0",
        "glibc.malloc.trim_threshold=4294967295",
    )
)
ONEDNN_SHAPES = 8  # of the batches that one thread computes at a time


class Supervisor:
    """Runs one worker; stops when the process `parent` ends, None for no such process."""

    def __init__(self, logger: logging.Logger, environment: EnvConfig, parent: int | None) -> None:
        self._logger, self._environment = logger, environment
        # Inside a Slurm step the scheduler ends what has to end.
        self._parent = None if environment.in_slurm_step else parent

    def run(
        self,
        rank: int,
        world_size: int,
        index_path: Path,
        output_dir: Path,
        model_config: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Run the worker of `rank` to its end; return its status, which is "complete".

        Where a sequence ended the worker, a fresh one goes on, and gets the reason in `crash`.

        Raises InterruptedRun after SIGTERM or SIGINT, WorkerError for any other end, DeviceError
        where there is no device to run on.
        """
        self._stop = StopFlag(ctrl_c=True)
        # A process reads these as it starts, before any Python runs in it.
        os.environ.update(_even_memory(os.environ, model_config["threads"]))
        if self._parent is not None:
            die_with_parent(self._parent, signal.SIGTERM)
        with lease_device(
            model_config["device"],
            rank,
            self._environment,
            leave_if_asked=self._stop.leave_if_asked,
            logger=self._logger,
        ) as variables:
            arguments = (variables, rank, world_size, index_path, output_dir)
            end = self._run_worker(*arguments, dict(model_config))
            while end.wants_fresh_worker and not self._stop.asked():
                self._logger.warning("%s; a fresh worker goes on", end.describe())
                end = self._run_worker(*arguments, {**model_config, "crash": end.crash})
        return end.judge(self._stop.asked())

    def _run_worker(self, *arguments: Any) -> WorkerEnd:
        kills = count_oom_kills()
        with _started(arguments) as (worker, results, began):
            status = self._wait(worker, results)
        return WorkerEnd(
            status=status,
            exit_code=worker.exitcode,
            began=began.is_set(),
            oom_killed=None if kills is None else (count_oom_kills() or 0) > kills,
        )

    def _wait(self, worker: SpawnProcess, results: Any) -> dict[str, Any] | None:
        """Wait for the worker's end; return the last status that it reported, if any.

        The exit code is the authority: what a worker reports before a hard exit may be lost.
        """
        status, deadline = None, None
        while worker.is_alive():
            status = _take(results) or status
            if self._stop.asked() and deadline is None:
                worker.terminate()
                deadline = time.monotonic() + self._grace()
                self._logger.info("stopping: the worker writes its checkpoint")
            if deadline is not None and time.monotonic() > deadline:
                self._logger.warning("the worker did not end in time and is killed")
                worker.kill()
                worker.join()
        return _take(results) or status

    def _grace(self) -> float:
        orphaned = self._parent is not None and os.getppid() != self._parent
        return ORPHAN_GRACE_SECONDS if orphaned else GRACE_SECONDS


def _take(results: Any) -> dict[str, Any] | None:
    try:
        status: dict[str, Any] = results.get(timeout=POLL_SECONDS)
    except queue.Empty:
        return None
    return status


@contextmanager
def _started(arguments: tuple[Any, ...]) -> Iterator[tuple[SpawnProcess, Any, Any]]:
    """Start a worker; give its process, its queue, and the event that it sets when it has begun.

    Whatever happens in the body, no worker is left behind.
    """
    context = multiprocessing.get_context("spawn")
    results, began = context.Queue(), context.Event()
    worker = context.Process(target=_work, args=(os.getpid(), results, began, *arguments))
    # The child keeps this mask: Ctrl-C reaches it only as the SIGTERM that we send.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        worker.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield worker, results, began
    finally:
        worker.kill()
        worker.join()
        results.close()


def _even_memory(environ: Mapping[str, str], threads: int) -> dict[str, str]:
    """Environment variables that limit allocator growth; the user's own values win."""
    variables = {
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(ONEDNN_SHAPES * threads),
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    tunables = filter(None, [TUNABLES, environ.get("GLIBC_TUNABLES")])
    return {name: environ.get(name, value) for name, value in variables.items()} | {
        "GLIBC_TUNABLES": ":".join(tunables)
    }


def _work(
    supervisor: int, results: Any, began: Any, variables: dict[str, str], *arguments: Any
) -> None:
    """Run the worker in the child, which the kernel kills when the supervisor ends."""
    die_with_parent(supervisor, signal.SIGKILL)
    os.environ.update(variables)
    # Here, not above: the supervisor has no use for PyTorch, which takes seconds to import.
    from seqembed.gpu_worker import gpu_worker

    rank, world_size, index_path, output_dir, config = arguments
    config = {**config, "began": began.set}
    gpu_worker(rank, world_size, results, index_path, output_dir, config)
