"""The sentences of a report on how a run went: times, speeds, crashes and stops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np

from seqembed.errors import count_of
from seqembed.machine.words import format_span
from seqembed.report.history import PHASES, ShardHistory
from seqembed.report.words import Notice

# A shard whose time is this many times the mean is called slow, and one that has more is a problem.
SLOW, UNBALANCED = 1.05, 1.2


def notice_stops(histories: Sequence[ShardHistory]) -> Iterator[Notice]:
    """Yield what needs attention of a run: crashes and stops."""
    if restarts := sum(len(shard.restarts) for shard in histories):
        whose = "A worker" if restarts == 1 else "Workers"
        text = f"{whose} crashed, and a fresh one went on from the last checkpoint: see below."
        yield Notice("note", f"{count_of(restarts, 'restart')}.", text)
    if stops := sum(len(shard.stops) for shard in histories):
        text = (
            "Jobs ended before their shard was complete. Later ones went on from the last "
            "checkpoint, and computed again what came after it: see below."
        )
        yield Notice("note", f"{count_of(stops, 'stop')}.", text)


def list_happened(histories: Sequence[ShardHistory]) -> list[tuple[str, int, str, str]]:
    """Return restarts and stops in order: the time, the rank, what it was, and why."""
    found = [
        *(
            (time, shard.rank, "restart", why)
            for shard in histories
            for time, why in shard.restarts
        ),
        *((s.time, shard.rank, s.status, s.reason) for shard in histories for s in shard.stops),
    ]
    return [
        (format_time(time), rank, what, why or "it ended without a word")
        for time, rank, what, why in sorted(found)
    ]


def format_time(seconds: float) -> str:
    """Return a time (Unix) as people write it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def list_places(histories: Sequence[ShardHistory]) -> str:
    """Return the devices that the shards ran on, each once."""
    return ", ".join(dict.fromkeys(place for shard in histories for place in shard.places))


def describe_passed(histories: Sequence[ShardHistory]) -> str:
    """Say how long it took from the first job's beginning to the last one's end."""
    return format_span(max(s.end for s in histories) - min(s.begin for s in histories))


def describe_time(histories: Sequence[ShardHistory]) -> str:
    """Say when the shards ran, what took their time, and how fast they were."""
    begin = min(shard.begin for shard in histories)
    totals = {name: sum(s.seconds[name] for s in histories) for name in PHASES}
    whole = sum(totals.values())
    shares = ", ".join(
        f"{100 * totals[name] / whole:.0f}% {name}" for name in PHASES if totals[name] > whole / 200
    )
    text = (
        f"The first job began at {format_time(begin)} UTC, and the last one ended "
        f"{describe_passed(histories)} later. The jobs of all shards took {format_span(whole)} "
        "together"
    )
    text += f": {shares}." if shares else "."
    if (idle := sum(shard.idle for shard in histories)) >= 1:
        text += f" Between its jobs, a shard stood still for {format_span(idle / len(histories))}"
        text += " on average."
    tokens = sum(shard.computed for shard in histories)
    timed = sum(shard.timed for shard in histories)
    if tokens and timed:
        text += f" A worker computed {tokens / timed:,.0f} tokens/s, its first batch not counted."
    return text


def describe_balance(histories: Sequence[ShardHistory], shards: int) -> str:
    """Say how full batches were, and how even the times of shards; shards: how many there are."""
    parts = []
    if len(histories) < shards:
        parts.append(f"The events of {len(histories)} of {count_of(shards, 'shard')} are there.")
    if room := sum(shard.room for shard in histories):
        full = 100 * sum(shard.filled for shard in histories) / room
        rest = f"the other {100 - full:.1f}% of what was computed only filled them up"
        parts.append(f"Batches were {full:.1f}% full of sequences; {rest}.")
    times = [shard.worked for shard in histories if shard.tokens]
    if shards == 1:
        return " ".join([*parts, "There is one shard, so nothing waited for another."])
    if len(times) < 2:
        return " ".join([*parts, "One shard was computed."])
    slow = find_slow(histories)
    if slow is None:
        return " ".join([*parts, f"The {len(times)} shards that were computed took equally long."])
    ratio = slow.worked / np.mean(times)
    parts.append(
        f"Of {len(times)} shards that were computed, shard {slow.rank} took longest: "
        f"{format_span(slow.worked)} with a device, {ratio:.2f} times the mean."
    )
    if ratio > UNBALANCED:
        parts.append(
            "The others ended well before it: look at its device, and at other programs there."
        )
    return " ".join(parts)


def find_slow(histories: Sequence[ShardHistory]) -> ShardHistory | None:
    """Return the shard that took longest; None if all took about as long."""
    computed = [shard for shard in histories if shard.tokens]
    slowest = max(computed, key=lambda shard: shard.worked, default=None)
    mean = np.mean([shard.worked for shard in computed]) if computed else 0
    return slowest if slowest and slowest.worked > SLOW * mean else None
