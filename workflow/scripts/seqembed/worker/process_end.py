"""How a worker process ended, and what the supervisor does next."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqembed.errors import IS_BUG, InterruptedRun, WorkerError
from seqembed.machine.signals import KEPT, RUN_AGAIN, STOPPED

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
