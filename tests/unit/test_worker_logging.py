"""A rank's log: one file for supervisor and worker, and how far the shard is."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from seqembed.worker_logging import PROGRESS_SECONDS, Progress, open_log_file, setup_worker_logging

LOGGER = logging.getLogger("seqembed.tests")
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"


def test_lines_are_appended_with_time_and_level(tmp_path):
    path = tmp_path / "logs/demo/worker_3.log"
    path.parent.mkdir(parents=True)
    path.write_text("from the rule\n")
    logger = setup_worker_logging(3, path)
    logger.info("größer %s", 5)
    logger.warning("beware")
    rule, *lines = path.read_text(encoding="utf-8").splitlines()
    assert rule == "from the rule"
    assert re.fullmatch(f"{TIME} INFO größer 5", lines[0])
    assert re.fullmatch(f"{TIME} WARNING beware", lines[1])


def test_set_up_twice_it_writes_once_and_to_the_new_file(tmp_path, capsys):
    old = setup_worker_logging(0, tmp_path / "a.log")
    (handler,) = old.handlers
    logger = setup_worker_logging(0, tmp_path / "b.log")
    assert logger is old and len(logger.handlers) == 1
    assert handler.stream is None  # closed
    logger.info("hello")
    assert (tmp_path / "a.log").read_text() == ""
    assert (tmp_path / "b.log").read_text().count("hello") == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_loses_lines_and_says_nothing_of_it(capsys):
    handler = open_log_file(Path("/dev/full"))
    record = logging.LogRecord("demo", logging.INFO, "demo.py", 1, "hello %s", ("you",), None)
    handler.handle(record)
    assert capsys.readouterr() == ("", "")
    record.args = ("you", "and a bug")
    handler.handle(record)
    assert "not all arguments converted" in capsys.readouterr().err


def test_ranks_have_their_own_logs(tmp_path):
    for rank in (0, 1):
        setup_worker_logging(rank, tmp_path / f"{rank}.log")
    setup_worker_logging(1, tmp_path / "1.log").info("of rank 1")
    assert "of rank 1" not in (tmp_path / "0.log").read_text()


def test_two_may_write_to_one_file(tmp_path):
    handlers = [open_log_file(tmp_path / "deep/w.log") for _ in range(2)]
    for number in range(4):
        record = logging.LogRecord("n", logging.INFO, "p", 1, f"line {number}", None, None)
        handlers[number % 2].emit(record)
    lines = (tmp_path / "deep/w.log").read_text().splitlines()
    assert [line[-6:] for line in lines] == [f"line {number}" for number in range(4)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said(caplog):
    """The lines of progress so far."""
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_line_says_done_speed_time_left_and_the_last_checkpoint(clock, said):
    clock.now = 100.0
    progress = Progress(LOGGER, 12_000, 1_000, 50_000, clock=clock)
    clock.now = 120.0
    progress.advance(234, 10_000, None)
    clock.now = 140.0
    progress.advance(1_000, 20_000, 115.0)
    assert said() == [
        "1,234 of 12,000 sequences done, 500 tokens/s, 0:01:20 left, "
        "last checkpoint none in this run",
        "2,234 of 12,000 sequences done, 750 tokens/s, 0:00:27 left, last checkpoint 0:00:25 ago",
    ]


def test_lines_come_no_more_often_than_they_should(clock, said):
    progress = Progress(LOGGER, 100, 0, 1_000, clock=clock)
    for number in range(1, 61):
        clock.now = float(number)
        progress.advance(1, 10, None)
    assert len(said()) == 60 // PROGRESS_SECONDS
    assert said()[0].startswith("15 of 100 sequences done, 10 tokens/s")


def test_a_long_batch_is_told_of_as_soon_as_it_ends(clock, said):
    progress = Progress(LOGGER, 100, 0, 10**9, clock=clock)
    clock.now = 100.0
    progress.advance(1, 100_000, None)
    clock.now = 114.0
    progress.advance(1, 100_000, None)
    assert [line.split(", ")[-2] for line in said()] == ["277:45:00 left"]
    clock.now = 115.0
    progress.advance(1, 100_000, None)
    assert len(said()) == 2


def test_the_end_and_the_beginning_make_sense(clock, said):
    progress = Progress(LOGGER, 10, 4, 500, clock=clock)
    progress.tell()
    clock.now = 2.0
    progress.advance(6, 500, 2.0)
    progress.tell()
    assert said() == [
        "4 of 10 sequences done, 0 tokens/s, unknown time left, last checkpoint none in this run",
        "10 of 10 sequences done, 250 tokens/s, 0:00:00 left, last checkpoint 0:00:00 ago",
    ]


def test_more_tokens_than_were_pending_leave_no_time_below_zero(clock, said):
    progress = Progress(LOGGER, 10, 0, 100, clock=clock)
    clock.now = 1.0
    progress.advance(10, 150, None)
    progress.tell()
    assert "0:00:00 left" in said()[0]
