"""The events of a shard's workers, a JSON object a line, in `worker_{rank}.events.jsonl`.

The file lies beside the rank's log, and each run appends to it. Each event has `format_version`,
`event`, `time` (seconds, Unix) and:

begin: a supervisor begins: `host`, `pid`, `slurm_job`.
leased: it has a device: `device`, the CUDA_VISIBLE_DEVICES that name it, "" for the CPU.
start: a worker knows what it has to compute: `host`, `pid`, `slurm_job`, `device`, `device_name`,
    `recipe` and `shard` (fingerprints), `sequences` and `tokens` of the shard, `done` and
    `done_tokens`, what of them was there already, and `room`, for how many tokens the batches have
    room that are to be computed.
first: its first batch is done; the keys of `rate`.
rate: every 15 seconds, and at the end of computing: `done`, `done_tokens`, `quarantined`, and
    `checkpoint_seconds`, which this worker has spent on checkpoints.
checkpoint: a block is on disk: `computed`, how many rows this worker has saved.
computed: the last batch is done, and the shard is written; the keys of `rate`.
restart: the worker crashed, and a fresh one goes on: `reason`.
end: the supervisor ends: `status` ("complete", "interrupted" or "failed"); of a complete shard also
    `device`, `computed`, `resumed_sequences`, `reused` and `quarantined`; else `reason`.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

FORMAT_VERSION = "1"
# An event has some 200 bytes.
TAIL_BYTES = 1 << 16


class EventLog:
    """Appends events to a file; clock: returns the time in seconds (Unix).

    An event that cannot be written, as on a full disk, is left out: the run matters more.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock

    def append(self, event: str, **fields: Any) -> None:
        """Append an event; `fields`: JSON values."""
        head = {"format_version": FORMAT_VERSION, "event": event, "time": round(self._clock(), 3)}
        line = json.dumps(head | fields) + "\n"
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # One write to a file opened for appending is not mixed with another process's.
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                # A full disk may have cut the last line.
                size = os.fstat(descriptor).st_size
                cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                os.write(descriptor, b"\n" * cut + line.encode())
            finally:
                os.close(descriptor)


def events_path(log: Path) -> Path:
    """Return the file of events that lies beside a rank's log."""
    return log.with_suffix(".events.jsonl")


def identify(slurm_job: str | None) -> dict[str, str | int | None]:
    """Return where this process runs, as fields of an event."""
    return {"host": platform.node(), "pid": os.getpid(), "slurm_job": slurm_job}


def read_events(path: Path, tail: int | None = None) -> list[dict[str, Any]]:
    """Return the events of a file, in order; none if there is no file.

    tail: read only the last `tail` bytes. Lines that a full disk cut, or that are of another format
    version, are left out. Raises OSError if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            if tail is not None:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - tail))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        with suppress(ValueError):
            event = json.loads(line)
            known = isinstance(event, dict) and event.get("format_version") == FORMAT_VERSION
            if known and {"event", "time"} <= event.keys():
                events.append(event)
    return events
