"""What status.py reads of runs, and how it shows that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from worker_runs import SCRIPTS, Project, embed_command, make_project, make_sequences

from seqembed.checkpoints.blocks import list_blocks
from seqembed.index.parquet import read_metadata
from seqembed.look.liveness import Liveness, Place, is_running_here
from seqembed.look.shard_status import DatasetStatus, ShardStatus, StallFinder, read_status
from seqembed.look.status_lines import fit, list_lines
from seqembed.worker.events import EventLog, events_path, read_events
from seqembed.worker.heartbeat import NAME, open_heartbeat

LENGTHS = [900, *(120 for _ in range(400))]


@pytest.fixture
def run(tmp_path, prepared_model) -> Iterator[Run]:
    run = Run(make_project(tmp_path, prepared_model, make_sequences(LENGTHS)))
    yield run
    run.stop()


class Run:
    """A shard of 401 sequences, embedded by the entry, and what status.py says of it."""

    def __init__(self, project: Project) -> None:
        # make_project writes results/demo; status.py looks for the logs beside results/.
        self.project, self.folder = project, project.folder
        self.log = project.folder / "logs/demo/worker_0.log"
        self.process: subprocess.Popen[str] | None = None

    def start(self, *more: str, **execution: Any) -> None:
        output = self.project.output / "shard_0.h5"
        often = {"token_budget": 600, "checkpoint_seq_threshold": 5} | execution
        command = embed_command(
            self.project.index(), self.project.model, output, self.log, *more, **often
        )
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()

    def wait_for_a_block(self) -> None:
        deadline = time.monotonic() + 60
        while not [b for f in self.project.results.glob("checkpoints/*/*") for b in list_blocks(f)]:
            assert time.monotonic() < deadline and self.process and self.process.poll() is None
            time.sleep(0.02)

    def shard(self) -> ShardStatus:
        (shard,) = self.dataset().shards
        return shard

    def dataset(self) -> DatasetStatus:
        (dataset,) = read_status(self.folder / "results", Liveness())
        return dataset

    def finish(self) -> str:
        """Run the shard to its end; return what it said."""
        self.start()
        assert self.process
        _, said = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, said
        return said

    def merge(self, *, ok: bool = True) -> None:
        results, log = self.project.results, self.log.with_name("merge.log")
        paths = (
            "--index",
            results / "index.parquet",
            "--shards",
            self.project.output / "shard_0.h5",
        )
        made = ("--output", results / "embeddings.h5", "--quarantine", results / "quarantine.tsv")
        command = [sys.executable, SCRIPTS / "merge.py", *paths, *made, "--log", log]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == ok, done.stderr

    def place(self) -> dict[str, Any]:
        """Where a process of this machine runs, as an event has it: this one."""
        return {"host": os.uname().nodename, "pid": os.getpid(), "slurm_job": None}

    def events(self) -> EventLog:
        return EventLog(events_path(self.log))

    def status(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SCRIPTS / "status.py"), *options],
            cwd=self.folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )


def test_before_its_job_a_shard_waits(run):
    shown = run.status()
    assert (shown.returncode, shown.stderr) == (0, "")
    head, line = shown.stdout.splitlines()
    assert head == "demo: embedding, 401 sequences"
    assert line.split() == ["0", "░" * 10, "0%", "0/401", "waiting"]


def test_while_a_shard_is_computed(run):
    run.start()
    run.wait_for_a_block()
    shard = run.shard()
    assert shard.state in ("loading", "computing") and shard.host and shard.pid
    assert (shard.sequences, shard.device) == (401, "cpu")
    shown = run.status("--json")
    assert shown.returncode == 0
    found = json.loads(shown.stdout)
    (dataset,) = found["datasets"]
    assert (found["format_version"], dataset["name"], dataset["state"]) == (
        "1",
        "demo",
        "embedding",
    )
    assert dataset["shards"][0]["pid"] == shard.pid


def test_a_killed_worker_is_dead_and_the_next_run_overwrites_its_heartbeat(run):
    run.start()
    run.wait_for_a_block()
    pid = run.shard().pid
    assert run.process
    run.process.kill()
    run.process.communicate()
    deadline = time.monotonic() + 10
    while (dead := run.shard()).state != "dead" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (dead.state, dead.pid) == ("dead", pid)
    assert f"process {pid} on {dead.host} is gone" in dead.note
    shown = run.status()
    assert shown.returncode == 3 and f"dead: {dead.note}" in shown.stdout
    # Until the next worker writes its own, the old one's heartbeat does not count.
    run.events().append("begin", **run.place())
    begun = run.shard()
    assert (begun.state, begun.done) == ("starting", dead.done)
    run.finish()
    finished = run.shard()
    assert (finished.state, finished.done, finished.share) == ("finished", 401, 1.0)
    assert not [*run.project.results.glob(f"checkpoints/*/*/{NAME}")]


def test_a_run_that_a_signal_stopped(run):
    run.start()
    run.wait_for_a_block()
    assert run.process
    run.process.send_signal(signal.SIGTERM)
    _, said = run.process.communicate(timeout=60)
    assert run.process.returncode == 143, said
    stopped = run.shard()
    assert stopped.state == "stopped" and 0 < stopped.done < 401 and 0 < stopped.share < 1
    assert run.status().returncode == 0


def test_a_run_that_failed_shows_why(run):
    run.start(device="cuda")
    assert run.process
    run.process.communicate(timeout=60)
    failed = run.shard()
    assert failed.state == "failed" and "`device: cuda` is asked for" in failed.note
    shown = run.status()
    assert shown.returncode == 3 and "failed: `device: cuda` is asked for" in shown.stdout


def test_events_of_a_whole_run(run):
    said = run.finish()
    events = read_events(events_path(run.log))
    kinds = [event["event"] for event in events]
    assert kinds[:4] == ["begin", "leased", "start", "first"] and kinds[-2:] == ["computed", "end"]
    assert "checkpoint" in kinds
    start, end = events[2], events[-1]
    assert (start["sequences"], start["done"], start["device"]) == (401, 0, "cpu")
    assert (end["status"], end["computed"], end["device"]) == ("complete", 401, "cpu")
    assert events[-2]["done_tokens"] == start["tokens"]
    times = [event["time"] for event in events]
    assert times == sorted(times)
    lines = [line for line in said.splitlines() if "to compute" in line]
    assert lines == ["embed_shard demo 0: 401 of 401 sequences to compute, on cpu"]
    # What is on the screen of a run is not in its log, too: Snakemake shows both after an error.
    assert "to compute, on" not in run.log.read_text()


def test_events_of_an_earlier_split_do_not_count(run):
    log = run.events()
    log.append("end", status="failed", reason="an old error")
    os.utime(events_path(run.log), ns=(0, 0))
    assert run.shard().state == "waiting"
    log.append("end", status="failed", reason="a new error")
    assert run.shard().note == "a new error"


def test_without_a_heartbeat_the_last_event_tells_the_state(run):
    """As on a file system without locks, where no worker writes one."""
    log, place = run.events(), run.place()
    counts = {"sequences": 401, "tokens": 1000, "done": 0, "done_tokens": 0, "device": "cpu"}
    found = []
    for event, fields in (
        ("begin", place),
        ("leased", {"device": ""}),
        ("start", place | counts),
        ("first", {}),
        ("rate", {"done": 10, "done_tokens": 100, "quarantined": 0}),
        ("rate", {"done": 20, "done_tokens": 250, "quarantined": 1}),
        ("computed", {"done": 20, "done_tokens": 250, "quarantined": 1}),
    ):
        log.append(event, **fields)
        found.append(run.shard())
    assert [shard.state for shard in found] == [
        *("starting", "starting", "loading", "computing", "computing", "computing", "writing"),
    ]
    last = found[-2]
    assert (last.done, last.share, last.quarantined, last.device) == (20, 0.25, 1, "cpu")
    assert last.tokens_per_second and last.tokens_per_second > 0
    child = subprocess.Popen(["true"])
    child.wait()
    log.append("begin", **(place | {"pid": child.pid}))
    assert run.shard().state == "dead"


def test_after_the_merge_a_dataset_is_done_until_another_run_begins(run):
    run.finish()
    assert run.dataset().state == "merging"
    run.merge()
    assert run.dataset().state == "done" and run.dataset().sequences == 401
    # The run of other settings that was killed before has left its heartbeat.
    fingerprint = read_metadata(run.project.index(), "shard")["fingerprint"]
    folder = run.project.results / f"checkpoints/0-{fingerprint[:12]}/shard_0"
    folder.mkdir(parents=True)
    facts = dict.fromkeys(("host", "shard", "device", "device_name"), "x")
    facts |= {"pid": 1, "slurm_job": None}
    with open_heartbeat(folder, True, 401, facts):
        os.utime(folder / NAME, ns=(0, 0))
        assert run.dataset().state == "embedding"  # nobody knows that it does not run
    (folder / NAME).write_text("{}")
    run.events().append("begin", **run.place())
    assert run.dataset().state == "embedding"
    run.events().append("end", status="failed", reason="no GPU")
    assert (run.dataset().state, run.shard().state) == ("embedding", "failed")
    assert run.status().returncode == 3


def test_a_merge_that_failed_shows_why(run):
    run.finish()
    path = run.project.output / "shard_0.h5"
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read()
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(0, 0))
    run.merge(ok=False)
    dataset = run.dataset()
    assert dataset.state == "merge failed" and "shard_0.h5" in dataset.note
    shown = run.status()
    assert shown.returncode == 3 and f"merge failed, 401 sequences: {dataset.note}" in shown.stdout
    # A new shard is still to be merged.
    os.utime(path)
    assert run.dataset().state == "merging"


def test_within_the_folder_of_results_the_logs_are_found_too(run):
    run.events().append("end", status="failed", reason="no GPU")
    command = [sys.executable, SCRIPTS / "status.py", "."]
    shown = subprocess.run(
        command, cwd=run.folder / "results", capture_output=True, text=True, check=False
    )
    assert shown.returncode == 3 and "no GPU" in shown.stdout


def test_other_folders_are_no_datasets(run):
    (run.folder / "results/figures").mkdir()
    assert [d.name for d in read_status(run.folder / "results", Liveness())] == ["demo"]


def test_a_folder_without_results_is_an_error_that_names_it(run):
    shown = run.status("elsewhere")
    assert shown.returncode == 2 and "elsewhere: there is no such folder" in shown.stderr
    empty = run.folder / "empty"
    empty.mkdir()
    assert run.status("empty").stdout == "no datasets yet\n"


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"PYTHONIOENCODING": "ascii"}])
def test_without_a_terminal_there_are_no_colours(environment, run):
    run.start(device="cuda")
    assert run.process
    run.process.communicate(timeout=60)
    shown = run.status(**environment)
    assert "failed" in shown.stdout and "\x1b" not in shown.stdout
    assert shown.stdout.isascii() == ("PYTHONIOENCODING" in environment)


# Liveness


def test_a_process_of_the_same_number_that_began_later_is_another():
    assert is_running_here(os.getpid(), time.time())
    assert not is_running_here(os.getpid(), 1e9)
    child = subprocess.Popen(["true"])
    time.sleep(0.2)
    # It has ended, and waits for its parent.
    assert not is_running_here(child.pid, time.time())
    child.wait()
    assert not is_running_here(child.pid, time.time())


FAR = Place(host="gpu07", pid=1, slurm_job="12", written=0.0, owner=os.getuid())


@pytest.mark.parametrize(
    ("script", "running"),
    [
        ("echo 11; echo 12", True),
        ("echo 11", False),
        ("exit 0", False),
        ("echo 12; exit 1", None),
        (None, None),
    ],
)
def test_slurm_is_asked_about_a_job_on_another_machine(script, running, tmp_path, monkeypatch):
    squeue = tmp_path / "squeue"
    if script:
        squeue.write_text(f'#!/bin/sh\n[ "$3" = --user={os.getuid()} ] || exit 9\n{script}\n')
        squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if script else str(tmp_path))
    liveness = Liveness()
    liveness.ask([FAR])
    assert liveness.is_running(FAR) is running


def test_slurm_is_asked_again_after_a_while_or_about_new_jobs(tmp_path, monkeypatch):
    asked, squeue = tmp_path / "asked", tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho >> {asked}\necho 12\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    now = 0.0
    liveness = Liveness(lambda: now)
    steps = ((0.0, ["12"], 1), (9.0, ["12"], 1), (10.0, ["12", "13"], 2), (41.0, ["12"], 3))
    for at, jobs, times in steps:
        now = at
        liveness.ask([replace(FAR, slurm_job=job) for job in jobs])
        assert asked.read_text().count("\n") == times
        assert liveness.is_running(FAR)


def test_without_slurm_nothing_is_known_of_another_machine(monkeypatch):
    far = replace(FAR, slurm_job=None)
    liveness = Liveness()
    liveness.ask([far])
    assert liveness.is_running(far) is None


# Stalled workers, and lines


def shard(rank: int = 0, **fields: Any) -> ShardStatus:
    return ShardStatus(**{"rank": rank, "state": "computing", "sequences": 10_000, **fields})


def dataset(*shards: ShardStatus, **fields: Any) -> DatasetStatus:
    known = {"name": "mine", "state": "embedding", "sequences": 40_000, "quarantined": 0}
    return DatasetStatus(**{**known, **fields}, shards=shards)


def test_a_worker_is_stalled_if_it_finishes_no_batch_for_a_while():
    now = 0.0
    finder = StallFinder(120.0, lambda: now)

    def look(at: float, **fields: Any) -> str:
        nonlocal now
        now = at
        ((found,),) = [d.shards for d in finder.mark([dataset(shard(pid=1, **fields))])]
        return found.state + found.note.removeprefix("no batch finished for")

    assert look(0, batches=5) == "computing"
    assert look(119, batches=5) == "computing"
    assert look(121, batches=5) == "stalled 2 min"
    assert look(122, batches=6) == "computing"
    assert look(900, batches=6, state="writing") == "writing"
    assert look(901, batches=6) == "computing"


def text(*datasets: DatasetStatus, encoding: str = "utf-8") -> list[str]:
    return [line.text.plain for line in list_lines(datasets, encoding, 80)]


BUSY = {
    "done": 6_000,
    "share": 0.655,
    "tokens_per_second": 120_087.4,
    "seconds_left": 180.0,
    "checkpoint_seconds_ago": 12.0,
    "device": "cuda:0",
    "device_name": "NVIDIA H200",
    "host": "gpu07",
}


def test_lines_fit_80_columns():
    lines = text(dataset(shard(**BUSY), shard(1, **BUSY), quarantined=3))
    assert lines == [
        "mine: embedding, 40,000 sequences, 3 quarantined, 240,175 tokens/s, 3 min left",
        "shard                     sequences done  tokens/s     left  saved  on",
        "    0  ██████░░░░  65%      6,000/10,000   120,087    3 min   12 s  H200 gpu07",
        "    1  ██████░░░░  65%      6,000/10,000   120,087    3 min   12 s  H200 gpu07",
    ]
    assert max(map(len, lines)) <= 80


def test_shards_in_a_row_that_wait_or_are_finished_share_a_line():
    states = ["finished"] * 4 + ["computing"] + ["waiting"] * 2 + ["finished", "stopped"]
    shards = (shard(rank, state=state) for rank, state in enumerate(states))
    lines = [line.split() for line in text(dataset(*shards))]
    assert [line[0] for line in lines[1:]] == ["0-3", "4", "5", "6", "7", "8"]
    assert lines[1] == ["0-3", "finished,", "40,000", "sequences"]
    assert lines[2][-1] == "computing"
    # Shard 5 does not say how long it takes.
    assert "left" not in " ".join(lines[0])


def test_a_dataset_that_is_done_is_one_line():
    done = dataset(state="done", quarantined=2)
    assert text(done) == ["mine: done, 40,000 sequences, 2 quarantined"]
    assert text(dataset(state="not indexed", sequences=0)) == ["mine: not indexed"]


def test_bars_on_a_screen_without_unicode():
    assert "######...." in text(dataset(shard(**BUSY)), encoding="ascii")[2]


def test_a_line_is_cut_to_the_screen():
    lines = text(dataset(shard(state="failed", note="why " * 50 + "\nmore")))
    assert len(lines[1]) == 80 and lines[1].endswith("...")
    full = BUSY | {"device_name": "NVIDIA H100 80GB HBM3", "host": "node7.cluster.example.org"}
    assert text(dataset(shard(**full)))[2].endswith("12 s  H100 80GB...")


def test_on_a_low_screen_what_is_wrong_comes_first():
    shards = [shard(rank, **BUSY) for rank in range(40)]
    shards[33] = shard(33, state="failed", note="no GPU")
    lines = list_lines([dataset(*shards)], "utf-8", 80)
    assert fit(lines, 42) == [line.text for line in lines]
    low = [line.plain for line in fit(lines, 6)]
    assert [line.split()[0] for line in low] == ["mine:", "shard", "0", "1", "33", "..."]
    assert low[-1].startswith("... and 37 more lines")


def test_a_wait_too_short_for_two_heartbeats_is_refused(run):
    for seconds in ("5", "-1"):
        shown = run.status("--wait", seconds)
        assert shown.returncode == 2 and "give 20 seconds or more" in shown.stderr
