"""The supervisor: leases a GPU, runs a worker in a child process, and acts on how the worker ends.

A supervisor changes the signal handlers and the environment of its own process, and never starts
CUDA: a worker inherits CUDA_VISIBLE_DEVICES, which CUDA reads once, as CUDA starts.
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread
from typing import Any, cast

from seqembed.environment import EnvConfig
from seqembed.errors import IS_BUG, InterruptedRun, WorkerError
from seqembed.machine.control_groups import count_oom_kills
from seqembed.machine.devices import lease_device
from seqembed.machine.signals import KEPT, RUN_AGAIN, STOPPED, StopFlag, die_with_parent
from seqembed.storage.paths import list_stores

POLL_SECONDS = 0.2
# Slurm's KillWait is 30 s by default: by then, the worker must have written its checkpoint.
GRACE_SECONDS = 25.0
# If the parent has ended, the user may start the next run at once, and that run waits for this one.
ORPHAN_GRACE_SECONDS = 5.0

# These settings keep a worker's memory from growing from batch to batch. A small block that stays
# allocated between two large blocks keeps them from joining when freed. glibc caches freed small
# blocks, and oneDNN keeps its compiled code for 1,024 shapes (each batch has another shape).
# Arrow's own allocator returns no memory to the system. Large blocks stay with the process: the
# next batch needs them again, and the system would clear each new page.
TUNABLES = (
    "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0:"
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295"
)
# How many shapes a batch has in each thread.
ONEDNN_SHAPES = 8
# What the user reads after a worker's error, by the `error` of its status.
ADVICE = {
    "cuda_oom": "; out of memory while loading the model, not in a batch: run fewer shards at once",
    "cuda_runtime": "; the GPU or its driver failed: see `nvidia-smi`",
    "unexpected_error": f"; {IS_BUG}",
}
# Signals that a process causes itself. SIGKILL and SIGTERM come from other processes.
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}


@dataclass(frozen=True, kw_only=True)
class WorkerEnd:
    """How a worker process ended.

    status: the last status that the worker put on the queue, None if there is none. exit_code:
    minus the signal's number if a signal killed the worker. began: whether the worker had recorded
    how the previous worker ended. oom_killed: whether the kernel killed a process of this control
    group because memory ran out; None if the kernel does not say.
    """

    status: Mapping[str, Any] | None
    exit_code: int
    began: bool
    oom_killed: bool | None

    @property
    def wants_fresh_worker(self) -> bool:
        """Whether a worker in a fresh process can compute sequences that this worker could not."""
        status = self.status or {}
        suspects_left = status.get("error") == "generic_error" and status.get("retry_recommended")
        return self.began and (self.crash is not None or bool(suspects_left))

    @property
    def crash(self) -> dict[str, Any] | None:
        """The crash for the next worker: its `reason` (text), and whether `memory` ran out (bool).

        None if the worker did not crash, or crashed before `began` was set. A SIGKILL counts as a
        crash only if memory ran out.
        """
        if not self.began:
            return None
        if self.status is not None:
            broken = self.status.get("circuit_breaker")
            return {"reason": _message(self.status), "memory": False} if broken else None
        killed = self.exit_code == -signal.SIGKILL and bool(self.oom_killed)
        if killed or -self.exit_code in CRASHES or self.exit_code >= 0:
            return {"reason": f"the worker {self._exit()}", "memory": killed}
        return None

    def judge(self, stopping: bool) -> dict[str, Any]:
        """Return the status if the worker completed; else raise InterruptedRun or WorkerError.

        stopping: a signal asked this run to stop, so a worker without a status is not at fault.
        """
        kind = self.status["status"] if self.status else None
        if self.status and kind == "complete" and self.exit_code == 0:
            return dict(self.status)
        # If a worker fails while it stops, its last checkpoint may be missing: that is an error.
        if kind == "interrupted" or (stopping and kind in (None, "complete")):
            raise InterruptedRun(STOPPED)
        message = self.describe()
        raise WorkerError(f"{message}; {KEPT if 'run again' in message else RUN_AGAIN}")

    def describe(self) -> str:
        """Return a sentence for the user that says how the worker ended."""
        if self.status is None:
            return f"the worker exited without reporting a status: it {self._exit()}"
        if self.status["status"] == "complete":
            return f"the worker completed, and then {self._exit()}"
        return f"{_message(self.status)}{ADVICE.get(str(self.status.get('error')), '')}"

    def _exit(self) -> str:
        if self.exit_code >= 0:
            return f"ended with exit code {self.exit_code}"
        if self.exit_code != -signal.SIGKILL:
            return f"was killed by {signal.Signals(-self.exit_code).name}"
        if self.oom_killed is None:
            return "was killed by SIGKILL (the kernel does this when memory is short)"
        if self.oom_killed:
            return "was killed by the kernel, because memory ran out"
        return "was killed by SIGKILL, which another process sent"


def _message(status: Mapping[str, Any]) -> str:
    return str(status.get("error_message", status.get("error")))


class Supervisor:
    """Runs the worker of a shard.

    parent: the pid of this process's parent, whose end stops the run; None: ignore its end.
    """

    def __init__(self, logger: logging.Logger, environment: EnvConfig, parent: int | None) -> None:
        self._logger, self._environment = logger, environment
        # In a Slurm step, Slurm itself stops the run.
        self._parent = None if environment.in_slurm_step else parent

    def run(
        self,
        rank: int,
        world_size: int,
        index_path: Path,
        output_dir: Path,
        model_config: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Run the worker of `rank` until the shard is complete; return the worker's last status.

        The arguments are those of gpu_worker. After a crash, a fresh worker goes on, with the crash
        in its `model_config`. Raises InterruptedRun after SIGTERM or SIGINT, WorkerError if the
        worker failed, DeviceError if there is no device to run on.
        """
        self._stop = StopFlag(ctrl_c=True)
        # The worker inherits these variables, and reads them before Python starts. Values that the
        # user set stay.
        shapes = ONEDNN_SHAPES * model_config["threads"]
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(shapes))
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
        tunables = (TUNABLES, os.environ.get("GLIBC_TUNABLES"))
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, tunables))
        if self._parent is not None:
            die_with_parent(self._parent, signal.SIGTERM)
        if _may_have_rows_elsewhere(rank, index_path, output_dir, model_config):
            # Imported here, because these modules need NumPy and HDF5, which take half a second.
            from seqembed.worker.without_device import finish_without_device

            leave = self._stop.leave_if_asked
            paths = rank, index_path, output_dir
            if status := finish_without_device(*paths, model_config, leave, self._logger):
                return status
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
        """Run one worker process to its end; an exception in this method kills the worker."""
        kills = count_oom_kills()
        context = multiprocessing.get_context("spawn")
        results, began = context.Queue(), context.Event()
        worker = context.Process(target=_work, args=(os.getpid(), results, began, *arguments))
        # The child inherits the mask: at Ctrl-C the child gets only the supervisor's SIGTERM.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            worker.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            status = self._wait(worker, results)
        finally:
            worker.kill()
            worker.join()
            results.close()
        return WorkerEnd(
            status=status,
            exit_code=cast(int, worker.exitcode),
            began=began.is_set(),
            oom_killed=None if kills is None else (count_oom_kills() or 0) > kills,
        )

    def _wait(self, worker: SpawnProcess, results: Any) -> dict[str, Any] | None:
        """Wait for the worker's end; return the last status that arrived, None if none did."""
        status: dict[str, Any] | None = None
        deadline = None
        while worker.is_alive():
            with suppress(queue.Empty):
                status = results.get(timeout=POLL_SECONDS)
            if self._stop.asked() and deadline is None:
                worker.terminate()
                orphaned = self._parent is not None and os.getppid() != self._parent
                grace = ORPHAN_GRACE_SECONDS if orphaned else GRACE_SECONDS
                deadline = time.monotonic() + grace
                self._logger.info("stopping: the worker writes a checkpoint")
            if deadline is not None and time.monotonic() > deadline:
                self._logger.warning("the worker did not stop in time and is killed")
                worker.kill()
                worker.join()
        with suppress(queue.Empty):
            status = results.get(timeout=POLL_SECONDS)
        return status


def _may_have_rows_elsewhere(
    rank: int, index_path: Path, output_dir: Path, model_config: Mapping[str, Any]
) -> bool:
    """Whether the shard was finished before, or other files may hold all of its rows.

    This is a quick guess: what it lets pass is looked at more closely with NumPy and HDF5.
    """
    results = output_dir.parent
    finished = results.glob(f"checkpoints/*/shard_{rank}/shard_{rank}.h5")
    stored = any(any(store.glob("*.h5")) for store in list_stores(results, model_config))
    if model_config.get("reuse") or any(finished) or stored:
        return True
    try:
        left = json.loads((index_path.parent / "reuse.json").read_text())["left"]
        return any(not counts[rank] for counts in left.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        # The file is missing, as with a split of an older version, or a worker names the damage.
        return False


def _work(
    supervisor: int, results: Any, began: Any, variables: dict[str, str], *arguments: Any
) -> None:
    """Run the worker in the child process, which the kernel kills when the supervisor ends.

    supervisor: its pid. results: the queue for the status. began: an event that the worker sets
    once it has recorded how the previous worker ended. variables: tie the worker to its device.
    """
    die_with_parent(supervisor, signal.SIGKILL)
    os.environ.update(variables)
    rank, world_size, index_path, output_dir, config = arguments
    config = {**config, "began": began.set}
    # Imported here, because a supervisor does not need NumPy and PyTorch, which take seconds.
    from seqembed.kernels.compiler import hash_triton
    from seqembed.models.prepared import read_ahead

    # The disk would be idle while PyTorch is imported.
    Thread(target=read_ahead, args=[Path(config["model"])], daemon=True).start()
    # On a CPU, no GPU is visible.
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        Thread(target=hash_triton, daemon=True).start()
    # The garbage collector would look through hundreds of modules again and again.
    gc.disable()
    from seqembed.gpu_worker import gpu_worker

    gc.freeze()
    gc.enable()
    gpu_worker(rank, world_size, results, index_path, output_dir, config)
