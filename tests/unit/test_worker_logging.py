"""A rank's log file, which supervisor and worker share."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from seqembed.worker_logging import open_log_file, setup_worker_logging

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
