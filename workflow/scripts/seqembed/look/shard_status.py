"""Tell how far the shards of each dataset are, from files alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from seqembed.checkpoints.unneeded import has_result
from seqembed.errors import SeqembedError
from seqembed.look.liveness import Liveness
from seqembed.look.shard_files import ShardFiles, count_rows, find_shards, logs_of
from seqembed.machine.words import format_seconds
from seqembed.run_messages import read_error

ShardState = Literal[
    "waiting", "starting", "loading", "computing", "writing", "finished", "stopped", "failed",
    "dead", "stalled",
]  # fmt: skip
DatasetState = Literal["not indexed", "indexed", "embedding", "merging", "merge failed", "done"]
WRONG: tuple[ShardState, ...] = ("failed", "dead", "stalled")
ACTIVE: tuple[ShardState, ...] = ("starting", "loading", "computing", "writing", "stalled")
# What a worker without a heartbeat does after an event; after any other, it is starting.
STATES: dict[str, ShardState] = {"start": "loading", "computed": "writing"}
STATES |= dict.fromkeys(("first", "rate", "checkpoint"), "computing")


@dataclass(frozen=True, kw_only=True)
class ShardStatus:
    """How far a shard is.

    state: "waiting" for its job; "starting", "loading" the model, "computing", "writing" the shard;
    "finished"; "stopped" by a signal; "failed", with the reason in `note`; "dead": its process is
    gone; "stalled": it finished no batch for a while. sequences: of the shard. done: how many have
    a row. share: what is done of its tokens, from 0 to 1. quarantined, batches, tokens_per_second,
    seconds_left, checkpoint_seconds_ago, device, device_name, host, pid, slurm_job: see Heartbeat.
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
    """How far a dataset is; sequences: of its index, 0 before. note: why its merge failed."""

    name: str
    state: DatasetState
    sequences: int
    quarantined: int
    shards: tuple[ShardStatus, ...] = ()
    note: str = ""

    @property
    def wrong(self) -> bool:
        """Whether a person has to look after it."""
        return self.state == "merge failed" or any(s.state in WRONG for s in self.shards)


def read_status(results: Path, liveness: Liveness) -> list[DatasetStatus]:
    """Return the state of every dataset in the folder `results`, by name."""
    folders = [path for path in sorted(results.absolute().glob("*")) if _is_dataset(path)]
    found = [(folder, [*find_shards(folder)]) for folder in folders]
    liveness.ask(shard.place for _, shards in found for shard in shards if shard.place)
    return [_read_dataset(folder, shards, liveness) for folder, shards in found]


def _is_dataset(folder: Path) -> bool:
    return (folder / "index.parquet").exists() or (folder.is_dir() and logs_of(folder).is_dir())


def _read_dataset(folder: Path, found: list[ShardFiles], liveness: Liveness) -> DatasetStatus:
    sequences = count_rows(folder / "index.parquet")
    shards = tuple(_judge(shard, liveness) for shard in found)
    if _is_done(folder, found, shards):
        lost = _count_lines(folder / "quarantine.tsv") - 1
        return DatasetStatus(name=folder.name, state="done", sequences=sequences, quarantined=lost)
    state = _judge_dataset(sequences, shards)
    note = _find_merge_error(folder) if state == "merging" else ""
    return DatasetStatus(
        name=folder.name,
        state="merge failed" if note else state,
        sequences=sequences,
        quarantined=sum(shard.quarantined for shard in shards),
        shards=shards,
        note=note,
    )


def _judge_dataset(sequences: int, shards: Sequence[ShardStatus]) -> DatasetState:
    if not sequences:
        return "not indexed"
    if not shards:
        return "indexed"
    return "merging" if all(shard.state == "finished" for shard in shards) else "embedding"


def _is_done(folder: Path, found: Sequence[ShardFiles], shards: Sequence[ShardStatus]) -> bool:
    """Whether the result of the present index is there, and no later run is to replace it.

    A run that ended before the merge, perhaps of other settings, may have left a heartbeat.
    """
    if any(shard.finished for shard in found) or any(s.state in ACTIVE for s in shards):
        return False
    with suppress(SeqembedError, OSError):
        # Each merge writes this file anew, while embeddings.h5 may be linked from an older one.
        merged = (folder / "quarantine.tsv").stat().st_mtime_ns
        pairs = zip(found, shards, strict=True)
        later = [shard.state for files, shard in pairs if files.changed > merged]
        return has_result(folder) and all(state == "waiting" for state in later)
    return False


def _find_merge_error(folder: Path) -> str:
    """Return the error of a merge that came after all shards, "" if there is none."""
    log = logs_of(folder) / "merge.log"
    with suppress(OSError):
        shards = [path.stat().st_mtime_ns for path in folder.glob("shards/shard_*.h5")]
        if log.stat().st_mtime_ns > max(shards, default=0):
            return read_error(log, ["ERROR"]) or ""
    return ""


def _count_lines(path: Path) -> int:
    with suppress(OSError), path.open("rb") as file:
        return sum(1 for _ in file)
    return 1


def _judge(found: ShardFiles, liveness: Liveness) -> ShardStatus:
    """Return the state of a shard."""
    status = ShardStatus(rank=found.rank, state="waiting", sequences=found.sequences)
    status = replace(status, **_list_counts(found))
    if found.finished:
        return replace(status, state="finished", share=1.0, done=found.sequences)
    if ended := _find_end(found):
        state, note = ended
        return replace(status, state=state, note=note)
    if not (place := found.place):
        return status
    status = replace(status, host=place.host, pid=place.pid, slurm_job=place.slurm_job)
    if liveness.is_running(place) is False:
        job = f", Slurm job {place.slurm_job}," if place.slurm_job else ""
        note = f"process {place.pid} on {place.host}{job} is gone"
        return replace(status, state="dead", note=note)
    if found.heartbeat and not found.old:
        return replace(status, state=found.heartbeat.phase)
    return replace(status, state=STATES.get(str(found.last_event.get("event")), "starting"))


def _find_end(found: ShardFiles) -> tuple[ShardState, str] | None:
    """Return how the last run of a shard ended, with the reason; None if it has not ended."""
    last = found.last_event
    if last.get("event") != "end":
        return None
    if found.heartbeat and found.heartbeat.written > last["time"]:
        return None
    states: dict[str, ShardState] = {"interrupted": "stopped", "failed": "failed"}
    # If the shard of a complete run is not there, it has to be made again.
    return states.get(str(last.get("status")), "waiting"), str(last.get("reason") or "")


def _list_counts(found: ShardFiles) -> dict[str, Any]:
    """Return the fields of ShardStatus that a heartbeat has, or else those in the last events."""
    heartbeat = found.heartbeat
    if heartbeat and not found.old:
        names = heartbeat.__dataclass_fields__.keys() & ShardStatus.__dataclass_fields__.keys()
        counts = {name: getattr(heartbeat, name) for name in names}
        return counts | {"share": _share(heartbeat.done_tokens, heartbeat.tokens)}
    if heartbeat and not any(event["event"] == "start" for event in found.events):
        done = {"done": heartbeat.done, "quarantined": heartbeat.quarantined}
        return done | {"share": _share(heartbeat.done_tokens, heartbeat.tokens)}
    return _list_event_counts(found.events)


def _list_event_counts(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    tokens = 0
    for event in events:
        tokens = event.get("tokens", tokens)
        names = {"done", "quarantined"}
        names |= {"device", "device_name"} if event["event"] == "start" else set()
        counts |= {name: event[name] for name in names & event.keys()}
        if "done_tokens" in event:
            counts["share"] = _share(event["done_tokens"], tokens)
    rates = [event for event in events if event["event"] == "rate"][-2:]
    if len(rates) == 2:
        seconds = max(rates[1]["time"] - rates[0]["time"], 1e-9)
        done = rates[1]["done_tokens"] - rates[0]["done_tokens"]
        counts["tokens_per_second"] = round(done / seconds, 1)
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
        self._seen: dict[tuple[str, int], tuple[tuple[int | None, int, float], float]] = {}

    def mark(self, datasets: Sequence[DatasetStatus]) -> list[DatasetStatus]:
        """Return states as they were read now, in which stalled workers are marked."""
        return [
            replace(dataset, shards=tuple(self._mark(dataset.name, s) for s in dataset.shards))
            for dataset in datasets
        ]

    def _mark(self, dataset: str, shard: ShardStatus) -> ShardStatus:
        now, found = self._clock(), (shard.pid, shard.batches, shard.share)
        before, since = self._seen.get((dataset, shard.rank), (None, now))
        if found != before or shard.state != "computing":
            self._seen[dataset, shard.rank] = found, now
        elif now - since >= self._seconds:
            note = f"no batch finished for {format_seconds(now - since)}"
            return replace(shard, state="stalled", note=note)
        return shard
