"""The events of a shard's workers."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from seqembed.worker.events import EventLog, events_path, identify, read_events


def test_events_are_appended_in_order_with_version_and_time(tmp_path):
    path = events_path(tmp_path / "logs/demo/worker_3.log")
    assert path == tmp_path / "logs/demo/worker_3.events.jsonl"
    times = iter([1.25, 2.0])
    log = EventLog(path, lambda: next(times))
    log.append("begin", **identify("77"))
    EventLog(path, lambda: 2.0).append("end", status="complete")
    begin, end = read_events(path)
    assert begin.pop("host") and begin.pop("pid") == os.getpid()
    assert begin == {"format_version": "1", "event": "begin", "time": 1.25, "slurm_job": "77"}
    assert end == {"format_version": "1", "event": "end", "time": 2.0, "status": "complete"}


def test_lines_that_are_cut_or_of_another_version_are_left_out(tmp_path):
    path = tmp_path / "e.jsonl"
    log = EventLog(path)
    log.append("begin")
    with path.open("a") as file:
        file.write('{"format_version": "1", "event": "ra\n7\n{"format_version": "2"}\n\xff\n')
    log.append("end")
    assert [event["event"] for event in read_events(path)] == ["begin", "end"]
    assert [event["event"] for event in read_events(path, tail=90)] == ["end"]
    assert read_events(tmp_path / "none.jsonl") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_loses_events_in_silence(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    EventLog(tmp_path / "full").append("begin")
    EventLog(tmp_path / "full/below").append("begin")


def test_events_of_several_writers_do_not_mix(tmp_path):
    path, rounds = tmp_path / "e.jsonl", 200

    def write(number: int) -> None:
        for place in range(rounds):
            EventLog(path).append("rate", number=number, place=place, text="x" * 500)

    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A writer may find another's line unfinished, and then leaves an empty line.
    events = [json.loads(line) for line in path.read_text().splitlines() if line]
    assert len(events) == 4 * rounds
    for number in range(4):
        assert [e["place"] for e in events if e["number"] == number] == [*range(rounds)]
