"""Run the steps of a part under their time limits, and keep what each one finds.

Only the standard library is used here: a step may fail because a package is missing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

# A step with less time left than this is not started: it would end while importing PyTorch.
LEAST_SECONDS = 5.0


class Step(NamedTuple):
    """A program; seconds: its time limit. Each line of JSON that it prints is one finding."""

    name: str
    command: Sequence[str]
    seconds: float


class Report:
    """The JSON file of a part, which is whole after every change; the log lies beside it."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self._steps: list[dict[str, Any]] = []
        self._content = {**facts, "steps": self._steps}
        self._begin = time.monotonic()
        self._write()

    @property
    def log(self) -> Path:
        return self.path.with_suffix(".log")

    @property
    def all_done(self) -> bool:
        return all(step["state"] == "done" for step in self._steps)

    def begin(self, step: Step) -> None:
        self._steps.append({"step": step.name, "state": "running", "seconds": 0.0, "found": []})
        self._write()

    def add(self, finding: Mapping[str, Any]) -> None:
        self._steps[-1]["found"].append(finding)
        self._write()

    def end(self, state: str, seconds: float) -> None:
        self._steps[-1] |= {"state": state, "seconds": round(seconds, 2)}
        self._write()

    def summary(self) -> str:
        return "; ".join(f"{step['step']}: {step['state']}" for step in self._steps)

    def _write(self) -> None:
        self._content["seconds"] = round(time.monotonic() - self._begin, 1)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._content, indent=1) + "\n")
        temporary.replace(self.path)


def run_steps(steps: Sequence[Step], report: Report, deadline: float) -> None:
    """Run each step, one after another; deadline: of all, by time.monotonic."""
    with report.log.open("w", buffering=1) as log:
        for step in steps:
            report.begin(step)
            begin = time.monotonic()
            limit = min(step.seconds, deadline - begin)
            if limit < LEAST_SECONDS:
                state = "not started: the part's time is over"
            else:
                log.write(f"== {step.name}: at most {limit:.0f} s\n")
                state = run_step(step, limit, log, report.add)
            report.end(state, time.monotonic() - begin)
            print(f"{step.name}: {state}, {time.monotonic() - begin:.1f} s", flush=True)


def run_step(
    step: Step, limit: float, log: TextIO, found: Callable[[Mapping[str, Any]], None]
) -> str:
    """Run a step; return how it ended. found: gets each finding; all other lines go to the log."""
    process = subprocess.Popen(
        step.command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        kill(process)

    timer = threading.Timer(limit, stop)
    timer.start()
    try:
        assert process.stdout
        for line in process.stdout:
            finding = read_finding(line)
            if finding is None:
                log.write(line)
            else:
                found(finding)
        code = process.wait()
    finally:
        timer.cancel()
        kill(process)
    if stopped.is_set():
        return f"stopped after {limit:.0f} s"
    return "done" if code == 0 else f"failed with exit code {code}"


def kill(process: subprocess.Popen[str]) -> None:
    """Kill all processes of the step that are left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def read_finding(line: str) -> dict[str, Any] | None:
    """Return the finding that a line of a step's output holds, None for any other line."""
    try:
        finding = json.loads(line)
    except ValueError:
        return None
    return finding if isinstance(finding, dict) and "kind" in finding else None
