"""Read how far the shards of each dataset are, from files alone; nothing is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from seqembed.checkpoints.unneeded import has_result
from seqembed.errors import SeqembedError
from seqembed.index.parquet import read_metadata
from seqembed.look.liveness import Liveness, Place
from seqembed.machine.screen import words_for
from seqembed.worker.events import TAIL_BYTES, events_path, read_events
from seqembed.worker.heartbeat import NAME, Heartbeat, read_heartbeat

ShardState = Literal[
    "waiting", "starting", "loading", "computing", "writing", "finished", "stopped", "failed",
    "dead", "stalled",
]  # fmt: skip
DatasetState = Literal["not indexed", "indexed", "embedding", "merging", "done"]
WRONG: tuple[ShardState, ...] = ("failed", "dead", "stalled")


@dataclass(frozen=True, kw_only=True)
class ShardStatus:
    """How far a shard is.

    state: "waiting" for its job; "starting", "loading" the model, "computing", "writing" the shard;
    "finished"; "stopped" by a signal; "failed", with the reason in `note`; "dead": its process is
    gone; "stalled": it finished no batch between two reads. sequences: of the shard. done: how many
    have a row. share: what is done of its tokens, from 0 to 1. quarantined, batches,
    tokens_per_second, seconds_left, checkpoint_seconds_ago, device, device_name, host, pid,
    slurm_job: see Heartbeat.
    """

    rank: int
    state: ShardState
    sequences: int
    done: int = 0
    share: float = 0.0
    quarantined: int = 0
    batches: int = 0
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    checkpoint_seconds_ago: float | None = None
    device: str = ""
    device_name: str = ""
    host: str = ""
    pid: int | None = None
    slurm_job: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class DatasetStatus:
    """How far a dataset is; sequences: of its index, 0 before. quarantined: None if not known."""

    name: str
    state: DatasetState
    sequences: int
    quarantined: int
    shards: tuple[ShardStatus, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the files say of a shard: its size, its last worker's heartbeat, its last events."""

    rank: int
    sequences: int
    finished: bool
    heartbeat: Heartbeat | None
    events: Sequence[dict[str, Any]]
    place: Place | None


def read_status(results: Path) -> list[DatasetStatus]:
    """Return the state of every dataset in the folder `results`, by name."""
    return [_read_dataset(path) for path in sorted(results.glob("*")) if path.is_dir()]


def _read_dataset(folder: Path) -> DatasetStatus:
    index, logs = folder / "index.parquet", folder.parent.parent / "logs" / folder.name
    sequences = _count_rows(index)
    shards = [*_find_shards(folder, logs)]
    if not any(shard.finished or shard.heartbeat for shard in shards) and _is_done(folder):
        lost = _count_lines(folder / "quarantine.tsv") - 1
        return DatasetStatus(name=folder.name, state="done", sequences=sequences, quarantined=lost)
    liveness = Liveness(shard.place for shard in shards if shard.place)
    read = tuple(_judge(shard, liveness) for shard in shards)
    return DatasetStatus(
        name=folder.name,
        state=_judge_dataset(sequences, read),
        sequences=sequences,
        quarantined=sum(shard.quarantined for shard in read),
        shards=read,
    )


def _judge_dataset(sequences: int, shards: Sequence[ShardStatus]) -> DatasetState:
    if not sequences:
        return "not indexed"
    if not shards:
        return "indexed"
    return "merging" if all(shard.state == "finished" for shard in shards) else "embedding"


def _is_done(folder: Path) -> bool:
    with suppress(SeqembedError):
        return has_result(folder)
    return False


def _count_rows(path: Path) -> int:
    """Return how many rows a Parquet file has; 0 if it cannot be read."""
    with suppress(OSError, pa.ArrowException):
        return int(pq.read_metadata(path).num_rows)
    return 0


def _count_lines(path: Path) -> int:
    with suppress(OSError), path.open("rb") as file:
        return sum(1 for _ in file)
    return 1


def _find_shards(folder: Path, logs: Path) -> Iterator[_Found]:
    """Yield what the files say of each shard of a dataset's folder, by rank."""
    for rank in range(sum(1 for _ in folder.glob("index/shard_*.parquet"))):
        path, log = folder / f"index/shard_{rank}.parquet", logs / f"worker_{rank}.log"
        with suppress(SeqembedError, OSError):
            fingerprint = read_metadata(path, "shard")["fingerprint"]
            heartbeat, place = _find_heartbeat(folder, rank, fingerprint)
            events, begun = _read_last_run(events_path(log), path, whole=heartbeat is None)
            yield _Found(
                rank=rank,
                sequences=_count_rows(path),
                finished=(folder / f"shards/shard_{rank}.h5").exists(),
                heartbeat=heartbeat,
                events=events,
                place=place or begun,
            )


def _find_heartbeat(
    folder: Path, rank: int, fingerprint: str
) -> tuple[Heartbeat | None, Place | None]:
    """Return the last heartbeat of a shard under any recipe, and where its worker ran."""
    found = []
    for base in folder.glob(f"checkpoints/*-{fingerprint[:12]}/shard_{rank}"):
        if heartbeat := read_heartbeat(base):
            with suppress(OSError):
                found.append((os.stat(base / NAME), heartbeat))
    if not found:
        return None, None
    state, heartbeat = max(found, key=lambda pair: pair[0].st_mtime_ns)
    return heartbeat, _place(vars(heartbeat), heartbeat.written, state.st_uid)


def _read_last_run(
    path: Path, index: Path, *, whole: bool
) -> tuple[list[dict[str, Any]], Place | None]:
    """Return the events of a rank's last run, and where it ran, None if that is not known.

    path: the file of events, none of which count if it is older than the shard's index. whole: read
    all of the file, not only its end.
    """
    if not path.exists() or (state := path.stat()).st_mtime_ns < index.stat().st_mtime_ns:
        return [], None
    events = read_events(path, None if whole else TAIL_BYTES)
    begins = [number for number, event in enumerate(events) if event["event"] == "begin"]
    if not begins:
        return events, None
    begin = events[begins[-1]]
    return events[begins[-1] :], _place(begin, begin["time"], state.st_uid)


def _place(fields: Mapping[str, Any], written: float, owner: int) -> Place:
    place: dict[str, Any] = {name: fields.get(name) for name in ("host", "pid", "slurm_job")}
    return Place(**place, written=written, owner=owner)


def _judge(found: _Found, liveness: Liveness) -> ShardStatus:
    """Return the state of a shard."""
    status = ShardStatus(rank=found.rank, state="waiting", sequences=found.sequences)
    status = replace(status, **_list_counts(found))
    if found.finished:
        return replace(status, state="finished", share=1.0, done=found.sequences)
    if ended := _find_end(found):
        state, note = ended
        return replace(status, state=state, note=note)
    if not found.place:
        return status
    place = found.place
    status = replace(status, host=place.host, pid=place.pid, slurm_job=place.slurm_job)
    if liveness.is_running(place) is False:
        job = f", Slurm job {place.slurm_job}," if place.slurm_job else ""
        return replace(
            status, state="dead", note=f"process {place.pid} on {place.host}{job} is gone"
        )
    return replace(status, state=found.heartbeat.phase if found.heartbeat else "starting")


def _find_end(found: _Found) -> tuple[ShardState, str] | None:
    """Return how the last run of a shard ended, with the reason; None if it has not ended."""
    last = found.events[-1] if found.events else {}
    if last.get("event") != "end":
        return None
    if found.heartbeat and found.heartbeat.written > last["time"]:
        return None
    states: dict[str, ShardState] = {"interrupted": "stopped", "failed": "failed"}
    # If the shard of a complete run is not there, it has to be made again.
    return states.get(last["status"], "waiting"), str(last.get("reason") or "")


def _list_counts(found: _Found) -> dict[str, Any]:
    """Return the fields of ShardStatus that a heartbeat has, or else those in the last events."""
    if heartbeat := found.heartbeat:
        names = heartbeat.__dataclass_fields__.keys() & ShardStatus.__dataclass_fields__.keys()
        counts = {name: getattr(heartbeat, name) for name in names}
        return counts | {"share": _share(heartbeat.done_tokens, heartbeat.tokens)}
    counts, tokens = {}, 0
    for event in found.events:
        tokens = event.get("tokens", tokens)
        counts |= {name: event[name] for name in ("done", "quarantined") if name in event}
        if "done_tokens" in event:
            counts["share"] = _share(event["done_tokens"], tokens)
    return counts


def _share(done: int, total: int) -> float:
    return min(1.0, done / total) if total else 0.0


class StallFinder:
    """Finds the workers that finish no batch for `seconds`, from states that are read now and then.

    The clock of a worker's machine is not compared with this one's.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        # Of each shard: its worker and the batches that this had finished, and when that was seen.
        self._seen: dict[tuple[str, int], tuple[tuple[int | None, int], float]] = {}

    def mark(self, datasets: Sequence[DatasetStatus]) -> list[DatasetStatus]:
        """Return states as they were read now, in which stalled workers are marked."""
        return [
            replace(dataset, shards=tuple(self._mark(dataset.name, s) for s in dataset.shards))
            for dataset in datasets
        ]

    def _mark(self, dataset: str, shard: ShardStatus) -> ShardStatus:
        now, found = self._clock(), (shard.pid, shard.batches)
        before, since = self._seen.get((dataset, shard.rank), (None, now))
        if found != before or shard.state != "computing":
            self._seen[dataset, shard.rank] = found, now
        elif now - since >= self._seconds:
            note = f"no batch finished for {words_for(now - since)}"
            return replace(shard, state="stalled", note=note)
        return shard
