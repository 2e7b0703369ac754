"""Find what the files of a dataset say of its shards; nothing is written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.errors import SeqembedError
from seqembed.index.parquet import read_metadata
from seqembed.look.liveness import Place
from seqembed.worker.events import TAIL_BYTES, events_path, read_events
from seqembed.worker.heartbeat import NAME, Heartbeat, read_heartbeat

BEGINNINGS = ("begin", "restart")


@dataclass(frozen=True, kw_only=True)
class ShardFiles:
    """What the files say of a shard.

    sequences: how many it has. finished: whether shards/shard_{rank}.h5 is there. heartbeat: of its
    worker; old: a worker that has begun since has not written its own yet. events: of its last run.
    place: where that ran, None if it is not known. changed: the time of the last change, in ns, by
    the clock of the file system.
    """

    rank: int
    sequences: int
    finished: bool
    heartbeat: Heartbeat | None
    old: bool
    events: Sequence[Mapping[str, Any]]
    place: Place | None
    changed: int

    @property
    def last_event(self) -> Mapping[str, Any]:
        """The last event, {} if there is none."""
        return self.events[-1] if self.events else {}


def find_shards(folder: Path) -> Iterator[ShardFiles]:
    """Yield what the files say of each shard, by rank; folder: the dataset's, absolute."""
    for rank in range(count_shards(folder)):
        with suppress(SeqembedError, OSError):
            yield _find_shard(folder, rank)


def count_shards(folder: Path) -> int:
    """Return how many shards a dataset has; folder: the dataset's."""
    return sum(1 for _ in folder.glob("index/shard_*.parquet"))


def logs_of(folder: Path) -> Path:
    """Return the folder of the logs of a dataset, whose absolute folder of results is given."""
    return folder.parent.parent / "logs" / folder.name


def count_rows(path: Path) -> int:
    """Return how many rows a Parquet file has; 0 if it cannot be read."""
    with suppress(OSError, pa.ArrowException):
        return int(pq.read_metadata(path).num_rows)
    return 0


def _find_shard(folder: Path, rank: int) -> ShardFiles:
    index = folder / f"index/shard_{rank}.parquet"
    fingerprint = read_metadata(index, "shard")["fingerprint"]
    found = _find_heartbeat(folder, rank, fingerprint)
    heartbeat, beat_place, beaten = found or (None, None, 0)
    path = events_path(logs_of(folder) / f"worker_{rank}.log")
    events, begun, changed = _read_last_run(path, index, whole=heartbeat is None)
    old = any(heartbeat and event["time"] > heartbeat.written for event in _beginnings(events))
    return ShardFiles(
        rank=rank,
        sequences=count_rows(index),
        finished=(folder / f"shards/shard_{rank}.h5").exists(),
        heartbeat=heartbeat,
        old=old,
        events=events,
        place=begun if old or not beat_place else beat_place,
        changed=max(beaten, changed),
    )


def _beginnings(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [event for event in events if event["event"] in BEGINNINGS]


def _find_heartbeat(
    folder: Path, rank: int, fingerprint: str
) -> tuple[Heartbeat, Place, int] | None:
    """Return the last heartbeat of a shard under any recipe, where its worker ran, and its time."""
    found = []
    for base in folder.glob(f"checkpoints/*-{fingerprint[:12]}/shard_{rank}"):
        if heartbeat := read_heartbeat(base):
            with suppress(OSError):
                found.append((os.stat(base / NAME), heartbeat))
    if not found:
        return None
    state, heartbeat = max(found, key=lambda pair: pair[0].st_mtime_ns)
    place = _place(vars(heartbeat), heartbeat.written, state.st_uid)
    return heartbeat, place, state.st_mtime_ns


def _read_last_run(
    path: Path, index: Path, *, whole: bool
) -> tuple[list[dict[str, Any]], Place | None, int]:
    """Return the events of a rank's last run, where it ran if that is known, and the file's time.

    path: the file of events, none of which count if it is older than the shard's index. whole: read
    all of the file, not only its end.
    """
    if not path.exists() or (state := path.stat()).st_mtime_ns < index.stat().st_mtime_ns:
        return [], None, 0
    events = read_events(path, None if whole else TAIL_BYTES)
    begins = [number for number, event in enumerate(events) if event["event"] == "begin"]
    if not begins:
        return events, None, state.st_mtime_ns
    begin = events[begins[-1]]
    place = _place(begin, begin["time"], state.st_uid)
    return events[begins[-1] :], place, state.st_mtime_ns


def _place(fields: Mapping[str, Any], written: float, owner: int) -> Place:
    place: dict[str, Any] = {name: fields.get(name) for name in ("host", "pid", "slurm_job")}
    return Place(**place, written=written, owner=owner)
