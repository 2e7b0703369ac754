"""Where a worker says what it does: its heartbeat, its events, and the screen."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqembed.checkpoints.checkpoint import Checkpoint
from seqembed.environment import EnvConfig
from seqembed.machine.screen import ScreenProgress
from seqembed.worker.decisions import Run
from seqembed.worker.device import add_name
from seqembed.worker.events import EventLog, events_path, identify
from seqembed.worker.heartbeat import HeartbeatFile, open_heartbeat


@dataclass(frozen=True, kw_only=True)
class Outlets:
    """Where a worker says what it does. facts: fields of its event `start`."""

    heartbeat: HeartbeatFile
    events: EventLog
    screen: ScreenProgress
    facts: Mapping[str, Any]

    def start(self, *, sequences: int, tokens: int, done: int, done_tokens: int, room: int) -> None:
        """Say what the worker has to compute: how much the shard has, and how much was there."""
        counts = {"tokens": tokens, "done": done, "done_tokens": done_tokens}
        self.events.append("start", **self.facts, sequences=sequences, **counts, room=room)
        self.heartbeat.write(phase="loading", **counts)
        device = self.facts["device_name"] or self.facts["device"]
        self.screen.say(f"{sequences - done:,} of {sequences:,} sequences to compute, on {device}")


@contextmanager
def open_outlets(
    run: Run, checkpoint: Checkpoint, model_config: Mapping[str, Any]
) -> Iterator[Outlets]:
    """Yield the outlets of the worker that works in `checkpoint`, with its first heartbeat.

    model_config: gpu_worker's; `log_path` says where the events are.
    """
    environment = EnvConfig.from_environ(os.environ)
    facts = {
        **identify(environment.slurm_job),
        "shard": run.shard.fingerprint,
        "device": str(run.device),
        "device_name": add_name(run.device, ""),
    }
    # With checkpoints or without, the folder lies two folders deep in the dataset's.
    label = f"embed_shard {checkpoint.base.parents[1].name} {checkpoint.rank}"
    events = EventLog(events_path(Path(model_config["log_path"])))
    opened = open_heartbeat(checkpoint.folder, checkpoint.locked, len(run.shard.rows), facts)
    with opened as heartbeat:
        yield Outlets(
            heartbeat=heartbeat,
            events=events,
            screen=ScreenProgress(label),
            facts=facts | {"recipe": run.recipe.fingerprint},
        )
