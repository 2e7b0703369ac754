"""What a worker says of its progress: on the screen, in its heartbeat, its events and its log."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from seqembed.machine.screen import ScreenProgress
from seqembed.worker.events import EventLog, read_events
from seqembed.worker.heartbeat import Heartbeat, open_heartbeat, read_heartbeat
from seqembed.worker.outlets import Outlets
from seqembed.worker.progress import Progress, Work

LOGGER = logging.getLogger("seqembed.tests")
FACTS = {"host": "gpu07", "pid": 5, "slurm_job": None, "shard": "ab", "device": "cuda:0"}
FACTS |= {"device_name": "NVIDIA H200"}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Worker:
    """A worker that computes what a test says, at the times that it says."""

    folder: Any
    outlets: Outlets
    lines: list[str]
    clock: Clock
    writer: Any = field(default_factory=lambda: SimpleNamespace(written=None, computed=0, spent=0))
    quarantined: dict[str, str] = field(default_factory=dict)

    def begin(self, work: Work) -> None:
        tracker: Any = SimpleNamespace(known=SimpleNamespace(quarantined=self.quarantined))
        self.progress = Progress(LOGGER, work, self.writer, tracker, self.outlets, self.clock)

    def at(self, now: float, sequences: int, tokens: int, retried: int = 0) -> None:
        self.clock.now = now
        self.progress.advance(sequences, tokens, retried)

    def heartbeat(self) -> Heartbeat | None:
        return read_heartbeat(self.folder)

    def events(self, kind: str) -> list[dict[str, Any]]:
        events = [e for e in read_events(self.folder / "e.jsonl") if e["event"] == kind]
        return [
            {k: e[k] for k in e if k not in ("format_version", "event", "time")} for e in events
        ]


@pytest.fixture
def worker(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    lines: list[str] = []
    clock = Clock()
    with open_heartbeat(tmp_path, True, 12_000, FACTS) as heartbeat:
        screen = ScreenProgress("embed_shard demo 0", clock, lines.append)
        events = EventLog(tmp_path / "e.jsonl")
        outlets = Outlets(heartbeat=heartbeat, events=events, screen=screen, facts=FACTS)
        yield Worker(tmp_path, outlets, lines, clock)


WORK = Work(sequences=12_000, tokens=100_000, done=1_000, done_tokens=20_000, room=81_000)


def test_the_first_line_says_what_is_to_be_computed_and_where(worker):
    worker.begin(WORK)
    line = "embed_shard demo 0: 11,000 of 12,000 sequences to compute, on NVIDIA H200"
    assert worker.lines == [line] and len(line) <= 80
    (start,) = worker.events("start")
    assert start == {**FACTS, **vars(WORK)}
    loading = worker.heartbeat()
    assert (loading.phase, loading.done, loading.done_tokens) == ("loading", 1_000, 20_000)
    worker.progress.begin()
    assert worker.heartbeat().phase == "computing"


def test_a_line_says_share_count_speed_and_time_left(worker):
    worker.begin(WORK)
    worker.clock.now = 100.0  # the model is loaded
    worker.progress.begin()
    worker.at(109.0, 234, 10_000)
    worker.at(110.0, 0, 0)
    worker.at(120.0, 1_000, 10_000)
    worker.at(140.0, 8_000, 50_000)
    assert worker.lines[1:] == [
        "embed_shard demo 0: 30%, 1,234 of 12,000 sequences, 1,111 tokens/s, 63 s left",
        "embed_shard demo 0: 40%, 2,234 of 12,000 sequences, 1,000 tokens/s, 60 s left",
        "embed_shard demo 0: 90%, 10,234 of 12,000 sequences, 1,750 tokens/s, 6 s left",
    ]
    assert all(len(line) <= 80 for line in worker.lines)


def test_heartbeat_and_event_come_at_most_every_15_seconds(worker):
    worker.begin(WORK)
    worker.progress.begin()
    for now in (5.0, 14.9, 15.0, 29.9, 30.1, 90.0):
        worker.at(now, 10, 1_000)
    rates = worker.events("rate")
    assert [rate["done_tokens"] for rate in rates] == [23_000, 25_000, 26_000]
    assert rates[0] == {
        **{"done": 1_030, "done_tokens": 23_000, "quarantined": 0, "checkpoint_seconds": 0}
    }
    heartbeat = worker.heartbeat()
    assert (heartbeat.batches, heartbeat.done, heartbeat.done_tokens) == (6, 1_060, 26_000)
    assert heartbeat.checkpoint_seconds_ago is None


def test_the_speed_is_that_of_the_last_minute(worker):
    worker.begin(WORK)
    worker.progress.begin()
    for now in range(15, 121, 15):
        worker.at(float(now), 10, 150 if now <= 60 else 1_500)
    heartbeat = worker.heartbeat()
    assert heartbeat.tokens_per_second == 100.0
    assert heartbeat.seconds_left == (80_000 - 4 * 150 - 4 * 1_500) / 100


def test_checkpoints_and_quarantined_sequences_are_told(worker):
    worker.begin(WORK)
    worker.progress.begin()
    worker.at(4.0, 10, 500)
    worker.writer.written, worker.writer.computed, worker.writer.spent = 5.0, 10, 0.25
    worker.quarantined["ab"] = "its values are not finite"
    worker.at(6.0, 0, 0)
    worker.at(16.0, 5, 500)
    assert worker.events("checkpoint") == [{"computed": 10}]
    (rate,) = worker.events("rate")
    assert (rate["quarantined"], rate["checkpoint_seconds"]) == (1, 0.25)
    assert worker.heartbeat().checkpoint_seconds_ago == 11.0
    assert worker.heartbeat().quarantined == 1
    # An empty result does not count as a batch.
    assert worker.heartbeat().batches == 2


def test_the_end_is_in_the_log_with_what_saying_so_took(worker, caplog):
    worker.begin(WORK)
    worker.clock.now = 1.0
    worker.progress.begin()
    worker.at(3.5, 0, 0)
    worker.at(3.5, 10, 1_500)
    worker.writer.spent = 0.5
    worker.clock.now = 11.0
    worker.progress.end()
    assert caplog.messages == [
        "the first batch, 1,500 tokens, was done after 3.500 seconds",
        "1,010 of 12,000 sequences done, 150 tokens/s",
        "1,500 tokens were computed in 10.000 seconds",
        "checkpoints took 0.50 of 10.00 seconds, heartbeat and progress 0.00",
    ]
    (first,) = worker.events("first")
    assert (first["done"], first["done_tokens"]) == (1_010, 21_500)
    assert worker.events("computed") == [] and worker.heartbeat().phase == "computing"
    worker.progress.finish()
    (computed,) = worker.events("computed")
    assert (computed["done"], computed["checkpoint_seconds"]) == (1_010, 0.5)
    assert worker.heartbeat().phase == "writing"


def test_the_end_says_how_many_were_computed_again_in_fp32(worker, caplog):
    worker.begin(WORK)
    worker.progress.begin()
    for now, retried in ((1.0, 2), (2.0, 0), (3.0, 1)):
        worker.at(now, 10, 1_500, retried)
    worker.progress.end()
    assert "computed again in fp32, since values were not finite: 3 sequences" in caplog.messages


def test_more_tokens_than_were_planned_leave_no_time_below_zero(worker):
    worker.begin(Work(sequences=10, tokens=1_000, done=0, done_tokens=0, room=1_000))
    worker.progress.begin()
    worker.at(20.0, 10, 2_000)
    assert worker.lines[-1].endswith("100%, 10 of 10 sequences, 100 tokens/s, 0 s left")


def test_without_a_batch_the_time_left_is_not_known(worker):
    worker.begin(WORK)
    worker.progress.begin()
    worker.at(400.0, 0, 0)
    assert worker.lines[-1].endswith(
        "20%, 1,000 of 12,000 sequences, 0 tokens/s, unknown time left"
    )
