"""How a worker process ended, and what the supervisor does next."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqembed.errors import InterruptedRun, WorkerError
from seqembed.machine.signals import STOPPED

KEPT = "what is finished is kept, run again to go on"
ADVICE = {
    "cuda_oom": "; out of memory while loading the model, not in a batch: run fewer shards at once",
    "cuda_runtime": "; the GPU or its driver failed: see `nvidia-smi`",
}
# What a process does to itself. SIGKILL and SIGTERM come from others.
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}


@dataclass(frozen=True, kw_only=True)
class WorkerEnd:
    """The last status of a worker, None for none, and its exit code, negative for a signal.

    began: it had recorded how the worker before it ended. oom_killed: the kernel killed it because
    memory ran out; None where the kernel does not say.
    """

    status: Mapping[str, Any] | None
    exit_code: int | None
    began: bool
    oom_killed: bool | None

    @property
    def wants_fresh_worker(self) -> bool:
        """Whether a worker in a fresh process can go on, and would not just end in the same way."""
        status = self.status or {}
        suspects_left = status.get("error") == "generic_error" and status.get("retry_recommended")
        return self.began and (self.crash is not None or bool(suspects_left))

    @property
    def crash(self) -> dict[str, Any] | None:
        """The `reason` of a crash, and whether it was out of `memory`, for the next worker.

        None for any other end; a SIGKILL that a person sent is no crash.
        """
        if not self.began or self.exit_code is None:
            return None
        if self.status is not None:
            broken = self.status.get("circuit_breaker")
            return {"reason": _message(self.status), "memory": False} if broken else None
        killed = self.exit_code == -signal.SIGKILL and bool(self.oom_killed)
        if killed or -self.exit_code in CRASHES or self.exit_code >= 0:
            return {"reason": f"the worker {self._exit()}", "memory": killed}
        return None

    def judge(self, stopping: bool) -> dict[str, Any]:
        """The status of a worker that completed; raises InterruptedRun or WorkerError otherwise.

        stopping: a signal asked for the end.
        """
        kind = self.status["status"] if self.status else None
        if self.status and kind == "complete" and self.exit_code == 0:
            return dict(self.status)
        # A worker that failed while it stopped is an error: its checkpoint may not be written.
        if kind == "interrupted" or (stopping and kind in (None, "complete")):
            raise InterruptedRun(STOPPED)
        raise WorkerError(f"{self.describe()}; {KEPT}")

    def describe(self) -> str:
        """What happened, for people."""
        if self.status is None:
            return f"the worker exited without reporting a status: it {self._exit()}"
        if self.status["status"] == "complete":
            return f"the worker completed, and then {self._exit()}"
        return f"{_message(self.status)}{ADVICE.get(str(self.status.get('error')), '')}"

    def _exit(self) -> str:
        if self.exit_code is None or self.exit_code >= 0:
            return f"ended with exit code {self.exit_code}"
        name = signal.Signals(-self.exit_code).name
        if name != "SIGKILL":
            return f"was killed by {name}"
        killers = {
            True: "the kernel, because memory ran out",
            False: "SIGKILL, from outside",
            None: "SIGKILL (the kernel does this when memory is short)",
        }
        return f"was killed by {killers[self.oom_killed]}"


def _message(status: Mapping[str, Any]) -> str:
    return str(status.get("error_message", status.get("error")))
