"""What the events of a shard's workers say of a result: its runs, their phases and speeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from indexing import make_shards, write_fasta

from seqembed.index.parquet import read_metadata
from seqembed.machine.words import format_span
from seqembed.report.figures import draw_phases, draw_speeds
from seqembed.report.history import (
    PHASES,
    ShardHistory,
    Speed,
    Stop,
    choose_runs,
    read_histories,
    tell,
    thin,
)
from seqembed.report.run_words import (
    describe_balance,
    describe_time,
    find_slow,
    list_happened,
)
from seqembed.worker.events import EventLog, read_events

RECIPE, SHARD = "r" * 16, "s" * 16
# Each sequence has TOKENS tokens.
SEQUENCES, TOKENS = 100, 10
Event = dict[str, Any]


def event(time: float, name: str, done: int | None = None, **fields: Any) -> Event:
    """An event; done: how many sequences are, of which the event has the tokens, too."""
    counts = {} if done is None else {"done": done, "done_tokens": done * TOKENS}
    return {"event": name, "time": float(time), **counts, **fields}


def start(time: float, done: int = 0, **changes: Any) -> Event:
    """A worker begins to compute what is missing, in batches that are 80% full."""
    fields = {"host": "node1", "pid": 7, "slurm_job": None, "device": "cpu", "device_name": ""}
    fields |= {"recipe": RECIPE, "shard": SHARD, "sequences": SEQUENCES}
    room = (SEQUENCES - done) * TOKENS * 5 // 4
    return (
        event(time, "start", done, **fields, tokens=SEQUENCES * TOKENS) | {"room": room} | changes
    )


def saved(time: float, seconds: float, name: str = "rate", done: int = 0) -> Event:
    return event(time, name, done, quarantined=0, checkpoint_seconds=seconds)


def ended(time: float, status: str = "complete", reason: str = "") -> Event:
    more = {"computed": SEQUENCES, "reused": 0} if status == "complete" else {"reason": reason}
    return event(time, "end", status=status, **more)


def complete(at: float = 0, done: int = 0, **changes: Any) -> list[Event]:
    """A run of 53 seconds without an incident."""
    return [
        event(at, "begin"),
        event(at + 5, "leased", device=""),
        start(at + 8, done, **changes),
        saved(at + 10, 0.0, "first", 10),
        saved(at + 25, 1.0, done=40),
        event(at + 26, "checkpoint", computed=SEQUENCES - done),
        saved(at + 40, 2.0, done=70),
        saved(at + 50, 3.0, "computed", 100),
        ended(at + 53),
    ]


# A run until its checkpoint of 40 sequences, and the one that goes on from there.
CUT = [
    event(0, "begin"),
    event(2, "leased", device=""),
    start(4),
    saved(6, 0.0, "first", 10),
    event(20, "checkpoint", computed=40),
    saved(21, 1.0, done=50),
]
RESUMED = [
    event(100, "begin"),
    event(101, "leased", device=""),
    start(103, 40),
    saved(105, 0.0, "first", 50),
    saved(115, 2.0, "computed", 100),
    ended(116),
]
CRASHED = [
    *CUT[:4],
    saved(21, 2.0, done=50),
    event(22, "checkpoint", computed=40),
    event(30, "restart", reason="killed by SIGSEGV"),
    start(33, 40),
    saved(35, 0.0, "first", 50),
    saved(45, 0.5, done=80),
    saved(50, 1.5, "computed", 100),
    ended(51),
]
REFUSED = [event(0, "begin"), event(1, "leased"), ended(2, "failed", "no such GPU")]
INTERRUPTED = [*CUT, ended(22, "interrupted", "stopped by Ctrl-C")]
OLD = [
    {key: value for key, value in one.items() if key != "room"}
    | ({"done": None, "done_tokens": None} if one["event"] == "first" else {})
    for one in complete()
]
OLD = [{key: value for key, value in one.items() if value is not None} for one in OLD]

# Events, seconds of each phase, tokens that were computed, restarts, and stops.
RUNS: dict[str, tuple[list[Event], tuple[float, ...], int, int, list[Stop]]] = {
    "clean": (complete(), (5, 5, 37, 3, 3), 900, 0, []),
    "Ctrl-C": (
        [*INTERRUPTED, *RESUMED],
        (3, 8, 23, 3, 1),
        900,
        0,
        [Stop(time=22, status="interrupted", reason="stopped by Ctrl-C")],
    ),
    "SIGKILL": (
        [*CUT, *RESUMED],
        (3, 8, 22, 3, 1),
        900,
        0,
        [Stop(time=21, status="killed", reason="")],
    ),
    "crash": (CRASHED, (2, 9, 35.5, 3.5, 1), 900, 1, []),
    "failed before start": (
        [*REFUSED, *complete(100)],
        (6, 6, 37, 3, 3),
        900,
        0,
        [Stop(time=2, status="failed", reason="no such GPU")],
    ),
    # The first batch is not told from those that follow, whose tokens count from the beginning.
    "old events": (OLD, (5, 5, 37, 3, 3), 1000, 0, []),
    "all rows reused": (
        [event(0, "begin"), ended(4) | {"computed": 0, "reused": SEQUENCES}],
        (4, 0, 0, 0, 0),
        0,
        0,
        [],
    ),
}


def history_of(events: list[Event]) -> ShardHistory:
    runs = choose_runs(events, RECIPE, SHARD)
    return tell(ShardHistory(rank=0, sequences=SEQUENCES), runs)


@pytest.mark.parametrize("name", RUNS)
def test_phases_speeds_and_stops_of_runs(name):
    events, seconds, tokens, restarts, stops = RUNS[name]
    found = history_of(events)
    assert found.seconds == pytest.approx(dict(zip(PHASES, seconds, strict=True)))
    assert (found.computed, len(found.restarts)) == (tokens, restarts)
    assert found.stops == stops
    assert (found.begin, found.end) == (events[0]["time"], events[-1]["time"])
    assert found.worked == pytest.approx(sum(seconds[1:]))


@pytest.mark.parametrize("name", RUNS)
def test_every_history_is_put_into_words_and_figures(name):
    histories = [history_of(RUNS[name][0])]
    assert "The jobs of all shards took " in describe_time(histories)
    assert "There is one shard" in describe_balance(histories, 1)
    json.dumps([draw_phases(histories), draw_speeds(histories)], allow_nan=False)
    assert len(list_happened(histories)) == RUNS[name][3] + len(RUNS[name][4])


def test_a_shard_made_again_of_rows_that_are_there_took_no_time():
    again = [event(9e5, "begin"), ended(9e5 + 4) | {"computed": 0, "reused": SEQUENCES}]
    found = history_of([*complete(), *again])
    assert (found.end, found.idle, found.reused) == (53, 0, 0)


def test_shards_without_events_are_counted_and_those_of_earlier_rows_are_no_measure():
    one = history_of(complete())
    said = describe_balance([one], 4)
    assert "The events of 1 of 4 shards are there." in said and "There is one shard" not in said
    idle = history_of(RUNS["all rows reused"][0])
    assert find_slow([one, idle]) is None and "times the mean" not in describe_balance(
        [one, idle], 2
    )


def test_the_time_between_jobs_is_no_work():
    found = history_of([*INTERRUPTED, *RESUMED])
    pause = RESUMED[0]["time"] - INTERRUPTED[-1]["time"]
    assert found.idle == pause > 0
    assert sum(found.seconds.values()) == pytest.approx(found.end - found.begin - pause)
    assert f"stood still for {format_span(pause)} on average" in describe_time([found])


@pytest.mark.parametrize(("times", "slow"), [((100, 101), None), ((100, 100, 140), 2)])
def test_a_shard_is_slow_if_it_took_clearly_longer(times, slow):
    shards = [ShardHistory(rank=rank, sequences=1, tokens=9) for rank in range(len(times))]
    for shard, seconds in zip(shards, times, strict=True):
        shard.seconds["computing"] = seconds
    found = find_slow(shards)
    assert (found and found.rank) == slow
    said = describe_balance(shards, len(shards))
    assert ("took equally long" in said) == (slow is None)
    assert ("ended well before it" in said) == (slow is not None)


def test_tokens_room_reuse_and_places_of_runs():
    found = history_of([*INTERRUPTED, *RESUMED])
    assert (found.tokens, found.filled, found.room) == (1000, 1600, 2000)
    assert found.checkpoints == [20.0]
    assert found.places == ["CPU on node1"]
    gpu = start(8, device="cuda:0", device_name="NVIDIA H200", host="node2")
    events = [*INTERRUPTED, *complete(100)[:2], gpu | {"time": 108.0, "done": 40}, ended(110)]
    assert history_of(events).places == ["CPU on node1", "NVIDIA H200 on node2"]
    assert history_of(RUNS["all rows reused"][0]).reused == SEQUENCES
    assert history_of(OLD).room == 0
    assert "full" not in describe_balance([history_of(OLD)], 1)
    assert "Batches were 80.0% full" in describe_balance([found], 1)


def test_a_speed_is_that_between_two_counts():
    rates = [(s.begin, s.end, s.tokens) for s in history_of(complete()).speeds]
    assert rates == [(10, 25, 300), (25, 40, 300), (40, 50, 300)]
    # What a crash lost is computed, and counted, twice; between two workers nothing is.
    rates = [(s.begin, s.end, s.tokens) for s in history_of(CRASHED).speeds]
    assert rates == [(6, 21, 400), (35, 45, 300), (45, 50, 200)]
    assert history_of(complete()).rate == 900 / 40


@pytest.mark.parametrize(
    ("events", "begun"),
    [
        ([], []),
        (complete(), [0]),
        ([*INTERRUPTED, *RESUMED], [0, 100]),
        ([*complete(recipe="other"), *complete(100)], [100]),
        ([*complete(shard="other"), *complete(100)], [100]),
        ([*complete(), *complete(100, recipe="other"), *complete(200)], [200]),
        ([*complete(), *complete(100, recipe="other")], []),
        # Only in the second run of the shard are the rows of the first there.
        ([*complete(), *complete(100)], [100]),
        ([*INTERRUPTED, *RESUMED, *complete(200, 39)], [200]),
        ([*INTERRUPTED, *RESUMED, *complete(200, 40)], [0, 100, 200]),
        ([*complete(), *CUT, *RESUMED], [0, 100]),
        ([*REFUSED, *complete(100)], [0, 100]),
        ([*complete(recipe="other"), *REFUSED, *complete(100)], [0, 100]),
        # The beginning of the file is gone.
        (complete()[3:], [10]),
    ],
)
def test_only_runs_that_led_to_the_result_count(events, begun):
    assert [run[0]["time"] for run in choose_runs(events, RECIPE, SHARD)] == begun


def test_rows_of_a_crashed_worker_are_saved_beside_those_before_it():
    again = [*CRASHED[:-2], event(48, "checkpoint", computed=30), *CRASHED[-2:]]
    assert len(choose_runs([*again, *complete(100, 70)], RECIPE, SHARD)) == 2
    assert len(choose_runs([*again, *complete(100, 69)], RECIPE, SHARD)) == 1


@st.composite
def some_runs(draw: Any) -> list[Event]:
    """A run, and perhaps a second one, of which some events are cut, at any times."""
    events = draw(st.sampled_from([complete(), CRASHED, [*INTERRUPTED, *RESUMED], OLD]))
    kept = [one for one in events if draw(st.integers(0, 4))] or [events[0]]
    times = draw(st.lists(st.integers(0, 100), min_size=len(kept), max_size=len(kept)))
    if draw(st.booleans()):
        times.sort()
    return [one | {"time": float(time)} for one, time in zip(kept, times, strict=True)]


@given(some_runs())
def test_whatever_events_are_cut_and_clocks_do_phases_add_up(events):
    runs = choose_runs(events, RECIPE, SHARD)
    if not runs:
        return
    found = tell(ShardHistory(rank=0, sequences=SEQUENCES), runs)
    passed = sum(
        max(0.0, later["time"] - earlier["time"])
        for run in runs
        for earlier, later in pairwise(run)
    )
    assert sum(found.seconds.values()) == pytest.approx(passed)
    assert min(found.seconds.values()) >= -1e-9
    assert all(speed.end > speed.begin for speed in found.speeds)
    assert found.end >= found.begin
    assert describe_time([found]) and describe_balance([found], 1)
    json.dumps([draw_phases([found]), draw_speeds([found])], allow_nan=False)


@pytest.mark.parametrize(
    "cut", [{6}, {6, 8}, {7, 8}], ids=["restart", "restart and first", "start and first"]
)
def test_checkpoints_of_a_new_worker_count_from_zero_whichever_event_was_cut(cut):
    events = [one for place, one in enumerate(CRASHED) if place not in cut]
    assert history_of(events).seconds["checkpoints"] == pytest.approx(3.5)


def speeds(*ends: float) -> Iterator[Speed]:
    for begin, end in pairwise(ends):
        yield Speed(begin=begin, end=end, tokens=100)


def test_short_speeds_are_joined_but_not_over_a_pause():
    few = [*speeds(0, 1, 2, 3), *speeds(10, 11, 12)]
    joined = [(s.begin, s.end, s.tokens) for s in thin(few, 2)]
    assert joined == [(0, 2, 200), (2, 3, 100), (10, 12, 200)]
    assert thin(few, 0) == few
    assert thin([], 2) == []


def test_histories_are_read_from_files_by_rank(tmp_path):
    folder = tmp_path / "results/demo"
    shards = make_shards(
        folder, [write_fasta(tmp_path, ["MKV", "AC" * 2, "WEL", "LLA", "WAC", "KKV"])], 3
    )
    for rank in (0, 2):
        fingerprint = read_metadata(shards[rank], "shard")["fingerprint"]
        write_events(tmp_path / f"logs/demo/worker_{rank}.events.jsonl", fingerprint)
    found = read_histories(folder, RECIPE)
    assert [(one.rank, one.sequences, one.computed) for one in found] == [(0, 2, 900), (2, 2, 900)]
    assert read_histories(folder, "other") == []
    # An index that cannot be read is left out, too.
    shards[0].write_bytes(b"no Parquet")
    assert [one.rank for one in read_histories(folder, RECIPE)] == [2]


def write_events(path: Path, shard: str) -> None:
    events = complete(shard=shard)
    times = iter([one["time"] for one in events])
    log = EventLog(path, lambda: next(times))
    for one in events:
        fields = {key: value for key, value in one.items() if key not in ("event", "time")}
        log.append(one["event"], **fields)


def test_a_line_that_a_full_disk_cut_is_no_event(tmp_path):
    path = tmp_path / "events.jsonl"
    write_events(path, SHARD)
    lines = path.read_bytes().splitlines(keepends=True)
    # Of the last line, only its beginning: the shard is there, so nothing was killed.
    path.write_bytes(b"".join(lines)[:-20])
    assert history_of(read_events(path)).stops == []
    # The worker's start and first batch.
    path.write_bytes(b"".join([*lines[:2], lines[2][:30] + b"\n", *lines[4:]]))
    found = history_of(read_events(path))
    assert (found.tokens, found.places, found.computed) == (0, [], 600)
    assert sum(found.seconds.values()) == 53
