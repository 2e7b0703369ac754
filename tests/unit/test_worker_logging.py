"""A rank's log file, which supervisor and worker share, and its progress lines."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from seqembed.worker.progress import Progress
from seqembed.worker_logging import open_log_file, setup_worker_logging

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


def test_a_second_setup_writes_to_the_new_file_only(tmp_path, capsys):
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
def test_a_full_disk_loses_lines_in_silence(capsys):
    handler = open_log_file(Path("/dev/full"))
    record = logging.LogRecord("demo", logging.INFO, "demo.py", 1, "hello %s", ("you",), None)
    handler.handle(record)
    assert capsys.readouterr() == ("", "")
    record.args = ("you", "and a bug")
    handler.handle(record)
    assert "not all arguments converted" in capsys.readouterr().err


def test_ranks_have_their_own_logs_and_two_handlers_may_share_one(tmp_path):
    for rank in (0, 1):
        setup_worker_logging(rank, tmp_path / f"deep/{rank}.log")
    other = open_log_file(tmp_path / "deep/1.log")
    logging.getLogger("seqembed.worker.1").info("line 0")
    other.handle(logging.LogRecord("n", logging.INFO, "p", 1, "line 1", None, None))
    logging.getLogger("seqembed.worker.1").info("line 2")
    lines = (tmp_path / "deep/1.log").read_text().splitlines()
    assert [line[-6:] for line in lines] == ["line 0", "line 1", "line 2"]
    assert (tmp_path / "deep/0.log").read_text() == ""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(caplog):
    """Gives the progress lines so far."""
    caplog.set_level(logging.INFO)
    return lambda: [text for text in caplog.messages if "sequences done" in text]


def test_a_line_has_done_speed_time_left_and_the_last_checkpoint(clock, lines):
    clock.now = 100.0
    progress = Progress(LOGGER, 12_000, 1_000, 50_000, clock=clock)
    clock.now = 120.0
    progress.advance(234, 10_000, None)
    clock.now = 140.0
    progress.advance(1_000, 20_000, 115.0)
    assert lines() == [
        "1,234 of 12,000 sequences done, 500 tokens/s, 0:01:20 left, "
        "last checkpoint none in this run",
        "2,234 of 12,000 sequences done, 750 tokens/s, 0:00:27 left, last checkpoint 0:00:25 ago",
    ]


def test_lines_come_at_most_every_15_seconds_and_as_soon_as_a_long_batch_ends(clock, lines):
    progress = Progress(LOGGER, 100, 0, 10**9, clock=clock)
    for now, count in ((14.0, 0), (100.0, 1), (114.0, 1), (115.0, 2)):
        clock.now = now
        progress.advance(1, 50_000, None)
        assert len(lines()) == count
    assert lines()[0].startswith("2 of 100 sequences done, 1,000 tokens/s, 277:45:00 left")


def test_the_first_batch_is_logged_with_its_tokens_and_time(clock, caplog):
    caplog.set_level(logging.INFO)
    clock.now = 1.0
    progress = Progress(LOGGER, 10, 0, 5_000, clock=clock)
    for now, tokens in ((2.0, 0), (3.5, 1_500), (4.0, 2_000)):
        clock.now = now
        progress.advance(1, tokens, None)
    assert caplog.messages == ["the first batch, 1,500 tokens, was done after 2.500 seconds"]


@pytest.mark.parametrize("pending", [500, 100])
def test_lines_of_the_beginning_and_the_end(pending, clock, lines):
    """No time left is below zero, even if more tokens came than were pending."""
    progress = Progress(LOGGER, 10, 4, pending, clock=clock)
    progress.log()
    clock.now = 2.0
    progress.advance(6, 500, 2.0)
    progress.log()
    assert lines() == [
        "4 of 10 sequences done, 0 tokens/s, unknown time left, last checkpoint none in this run",
        "10 of 10 sequences done, 250 tokens/s, 0:00:00 left, last checkpoint 0:00:00 ago",
    ]
