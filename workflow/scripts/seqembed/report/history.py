"""What happened while a result was made: the events of each shard's workers, put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from seqembed.errors import SeqembedError
from seqembed.index.parquet import read_metadata
from seqembed.look.shard_files import count_rows, count_shards, logs_of
from seqembed.worker.events import events_path, read_events

Event = Mapping[str, Any]

PHASES = ("waiting", "loading", "computing", "checkpoints", "writing")
# The phase that begins with an event, until the next of these events. Of the other events, `start`
# changes no phase, and after `end` nothing runs.
_BEGINS = {
    "begin": "waiting",
    "leased": "loading",
    "restart": "loading",
    "first": "computing",
    "computed": "writing",
}
_COUNTED = ("start", "first", "rate", "computed")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How many tokens a second were computed between two times (seconds, Unix)."""

    begin: float
    end: float
    tokens: int

    @property
    def rate(self) -> float:
        return self.tokens / max(self.end - self.begin, 1e-9)


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A run of a shard that ended before the shard was complete, at `time` (seconds, Unix).

    status: "interrupted", "failed", or "killed" if it ended without a word.
    """

    time: float
    status: str
    reason: str


@dataclass(kw_only=True)
class ShardHistory:
    """What the events say of a shard, over all its runs.

    sequences, tokens: how much the shard has; tokens is 0 if no worker was needed. reused: how many
    rows were taken from other results. room: for how many tokens the computed batches had room;
    filled: how many they held. begin, end: of all its runs (Unix). idle: the seconds between runs.
    seconds: the time of each phase. speeds: in order. checkpoints: when each was on disk. restarts:
    when a fresh worker went on after a crash, and why. places: the devices and machines.
    """

    rank: int
    sequences: int
    tokens: int = 0
    reused: int = 0
    filled: int = 0
    room: int = 0
    begin: float = 0.0
    end: float = 0.0
    idle: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    speeds: list[Speed] = field(default_factory=list)
    checkpoints: list[float] = field(default_factory=list)
    restarts: list[tuple[float, str]] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    @property
    def computed(self) -> int:
        """How many tokens were computed after first batches, those that a crash lost included."""
        return sum(speed.tokens for speed in self.speeds)

    @property
    def timed(self) -> float:
        """For how many seconds the speed is known."""
        return sum(speed.end - speed.begin for speed in self.speeds)

    @property
    def worked(self) -> float:
        """For how many seconds the shard had a device."""
        return sum(self.seconds.values()) - self.seconds["waiting"]

    @property
    def rate(self) -> float | None:
        """Tokens a second after first batches; None if no speed is known."""
        return self.computed / self.timed if self.computed and self.timed else None


def read_histories(folder: Path, recipe: str) -> list[ShardHistory]:
    """Return what happened to each shard of a result, by rank.

    folder: the dataset's folder of results, absolute. recipe: the result's fingerprint. A shard
    whose index or events are gone, damaged, or of another result, is left out.
    """
    found = []
    for rank in range(count_shards(folder)):
        index = folder / f"index/shard_{rank}.parquet"
        with suppress(SeqembedError, OSError, KeyError, TypeError):
            shard = read_metadata(index, "shard")["fingerprint"]
            events = read_events(events_path(logs_of(folder) / f"worker_{rank}.log"))
            if runs := choose_runs(events, recipe, shard):
                found.append(tell(ShardHistory(rank=rank, sequences=count_rows(index)), runs))
    return found


def choose_runs(events: Sequence[Event], recipe: str, shard: str) -> list[list[Event]]:
    """Return the events of each run that led to a shard of a result, in order.

    recipe, shard: the fingerprints of both. Runs before the last one of another recipe or shard do
    not count, nor do runs whose checkpoints a later worker did not find: their rows were removed.
    """
    runs: list[list[Event]] = []
    for run in _split_runs(events):
        starts = [event for event in run if event["event"] == "start"]
        if any((start["recipe"], start["shard"]) != (recipe, shard) for start in starts):
            runs = []
            continue
        if not starts and runs and runs[-1][-1].get("status") == "complete":
            # The shard was made again of rows that are there.
            continue
        if starts and starts[0]["done"] < max(map(_count_saved, runs), default=0):
            runs = []
        runs.append(run)
    return runs


def _split_runs(events: Sequence[Event]) -> Iterator[list[Event]]:
    run: list[Event] = []
    for event in events:
        if event["event"] == "begin" and run:
            yield run
            run = []
        run.append(event)
    if run:
        yield run


def _count_saved(run: Sequence[Event]) -> int:
    """Return how many rows a run has left on disk."""
    before = saved = 0
    for event in run:
        if event["event"] == "start":
            before = saved = event["done"]
        elif event["event"] == "checkpoint":
            saved = before + event["computed"]
    return saved


def tell(history: ShardHistory, runs: Sequence[Sequence[Event]]) -> ShardHistory:
    """Add the events of a shard's runs to its history, and return it."""
    # Machines' clocks differ, and may be set back.
    times = [event["time"] for run in runs for event in run]
    history.begin, history.end = min(times), max(times)
    history.idle = sum(
        max(0.0, after[0]["time"] - before[-1]["time"]) for before, after in pairwise(runs)
    )
    for run in runs:
        _add_phases(history.seconds, run)
        _add_speeds(history.speeds, run)
        _add_marks(history, run)
        for start in (event for event in run if event["event"] == "start"):
            history.tokens = start["tokens"]
            history.room += start.get("room", 0)
            history.filled += (start["tokens"] - start["done_tokens"]) if "room" in start else 0
            where = f"{start['device_name'] or start['device'].upper()} on {start['host']}"
            history.places += [where] if where not in history.places else []
    _add_stops(history.stops, runs)
    return history


def _add_phases(seconds: dict[str, float], run: Sequence[Event]) -> None:
    """Add the time between events to the phases of the first of each two."""
    phase, saving = "waiting", 0.0
    for event, following in pairwise(run):
        phase = _BEGINS.get(event["event"], phase)
        seconds[phase] += max(0.0, following["time"] - event["time"])
        # A worker counts from its own beginning; a full disk may have cut one of these events.
        if event["event"] in ("restart", "start"):
            saving = 0.0
        spent = following.get("checkpoint_seconds", saving)
        # If a clock was set back meanwhile, less time passed than was spent.
        moved = max(0.0, min(spent - saving, seconds["computing"]))
        seconds["checkpoints"] += moved
        seconds["computing"] -= moved
        saving = spent


def _add_speeds(speeds: list[Speed], run: Sequence[Event]) -> None:
    before: Event | None = None
    for event in (event for event in run if event["event"] in _COUNTED):
        counts = {"time": event["time"], "done_tokens": event.get("done_tokens")}
        if event["event"] == "first" and before:
            # Older workers did not count the first batch.
            counts["done_tokens"] = counts["done_tokens"] or before["done_tokens"]
        # Without its start, which a full disk cut, an older worker's first batch has no count.
        elif event["event"] != "start" and before and before["done_tokens"] is not None:
            tokens = counts["done_tokens"] - before["done_tokens"]
            if counts["time"] > before["time"]:
                speeds.append(Speed(begin=before["time"], end=event["time"], tokens=tokens))
        before = counts


def _add_marks(history: ShardHistory, run: Sequence[Event]) -> None:
    for event in run:
        if event["event"] == "checkpoint":
            history.checkpoints.append(event["time"])
        elif event["event"] == "restart":
            history.restarts.append((event["time"], event["reason"]))
        elif event["event"] == "end":
            history.reused = event.get("reused") or history.reused


def _add_stops(stops: list[Stop], runs: Sequence[Sequence[Event]]) -> None:
    # The result is there: its last run ended well, even if a full disk cut that event.
    ended = [*runs[:-1], *(run for run in runs[-1:] if "status" in run[-1])]
    for run in ended:
        last, status = run[-1], run[-1].get("status", "killed")
        if status != "complete":
            reason = last.get("reason", "")
            stops.append(Stop(time=last["time"], status=status, reason=reason))


def thin(speeds: Sequence[Speed], shortest: float) -> list[Speed]:
    """Join neighbouring speeds until each lasts `shortest` seconds, so that a figure stays small.

    Speeds with a pause between them, in which no worker computed, are not joined.
    """
    joined: list[Speed] = []
    for speed in speeds:
        last = joined[-1] if joined else None
        if last and last.end == speed.begin and last.end - last.begin < shortest:
            tokens = last.tokens + speed.tokens
            joined[-1] = Speed(begin=last.begin, end=speed.end, tokens=tokens)
        else:
            joined.append(speed)
    return joined
