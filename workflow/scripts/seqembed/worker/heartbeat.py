"""The heartbeat of a worker: a file in its checkpoint folder that says what it does.

Only a worker that holds the folder's lock has a heartbeat, and it removes the file at its end. So a
heartbeat is of a worker that runs, or of one that was killed.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from seqembed.storage.json_files import add_checksum, read_json

NAME, KIND, FORMAT_VERSION = "heartbeat.json", "heartbeat", "1"
Phase = Literal["starting", "loading", "computing", "writing"]


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """What a worker does.

    host, pid: where it runs. slurm_job: None outside of Slurm. written: the worker's time, in
    seconds (Unix), which may differ from that of another machine. shard: the shard's fingerprint.
    phase: "starting" until it knows what to compute, "loading" the model, "computing", or "writing"
    the shard. batches: how many it has finished; a worker for which this stays the same is stalled.
    sequences, tokens: of the shard. done, done_tokens: what of them has a row. quarantined: how
    many sequences have none, and will get none. tokens_per_second: over the last minute, None
    before the first batch. seconds_left: at this speed. checkpoint_seconds_ago: since the last
    block was written; None before this worker's first.
    """

    host: str
    pid: int
    slurm_job: str | None
    written: float
    shard: str
    device: str
    device_name: str
    phase: Phase = "starting"
    batches: int = 0
    sequences: int
    tokens: int = 0
    done: int = 0
    done_tokens: int = 0
    quarantined: int = 0
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    checkpoint_seconds_ago: float | None = None


class HeartbeatFile:
    """Writes a heartbeat to a file; path: None writes none."""

    def __init__(self, path: Path | None, heartbeat: Heartbeat) -> None:
        self._path, self._heartbeat = path, heartbeat

    def write(self, **changes: Any) -> None:
        """Write the heartbeat with some fields changed.

        A reader sees the old file or the new one. The file is not synced: it is of no use after the
        machine has stopped. A file that cannot be written is left out: the run matters more.
        """
        self._heartbeat = replace(self._heartbeat, written=round(time.time(), 3), **changes)
        if self._path is None:
            return
        content = {"kind": KIND, "format_version": FORMAT_VERSION, **asdict(self._heartbeat)}
        temporary = self._path.with_name(f".{NAME}.{uuid.uuid4().hex}.tmp")
        with suppress(OSError):
            try:
                temporary.write_text(json.dumps(add_checksum(content)) + "\n", encoding="utf-8")
                os.rename(temporary, self._path)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


@contextmanager
def open_heartbeat(
    folder: Path, locked: bool, sequences: int, facts: Mapping[str, Any]
) -> Iterator[HeartbeatFile]:
    """Yield a file for the heartbeat of this process, and remove that file after the `with` block.

    folder: the checkpoint's. locked: this process holds its lock; if not, no file is written.
    sequences: of the shard. facts: the fields of Heartbeat that do not change.
    """
    heartbeat = Heartbeat(written=time.time(), sequences=sequences, **facts)
    file = HeartbeatFile(folder / NAME if locked else None, heartbeat)
    file.write()
    try:
        yield file
    finally:
        file.remove()


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """Return the heartbeat in a checkpoint folder; None if there is none, or if it is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = read_json(folder / NAME, KIND, FORMAT_VERSION)
        names = Heartbeat.__dataclass_fields__
        return Heartbeat(**{name: content[name] for name in names if name in content})
    return None
