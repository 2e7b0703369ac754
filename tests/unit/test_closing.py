"""The closing lines of a failed run: the error of each log, on one line."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from seqembed.run_messages import list_errors, read_error
from seqembed.worker_logging import open_log_file

CUDA = "CUDA error: an illegal memory access\nCUDA kernel errors might be\nFor debugging\n\nCompile"


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "logs/mine/worker_0.log"


@pytest.fixture
def logger(log):
    handler = open_log_file(log)
    logger = logging.Logger("closing")
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_only_the_first_line_of_an_error_is_shown(log, logger):
    logger.info("it begins")
    logger.error(CUDA)
    assert read_error(log) == "CUDA error: an illegal memory access"


def test_a_traceback_adds_its_last_line(log, logger):
    try:
        raise RuntimeError("why")
    except RuntimeError:
        logger.exception("this is a bug")
    assert read_error(log) == "this is a bug (RuntimeError: why)"


def test_a_warning_is_shown_only_at_the_end_of_a_log(log, logger):
    logger.warning("stopped by Ctrl-C")
    assert read_error(log) == "stopped by Ctrl-C"
    logger.info("all is well")
    assert read_error(log) is None


@pytest.mark.parametrize("text", ["", "no record\n"])
def test_a_log_without_records_shows_nothing(log, logger, text):
    log.write_text(text)
    assert read_error(log) is None


def test_logs_of_earlier_runs_and_missing_logs_are_passed_over(log, logger):
    logger.error("first\nsecond")
    os.utime(log, (100, 100))
    missing = log.with_name("missing.log")
    assert list_errors([missing, log], 99) == [f"{log}: first"]
    assert list_errors([missing, log], 101) == []


def test_the_same_error_of_several_logs_is_one_line(log, logger, tmp_path):
    logger.error("no GPU")
    others = [tmp_path / name for name in "ab"]
    for other in others:
        other.write_bytes(log.read_bytes())
    assert list_errors([log, *others], 0) == [f"{log} and 2 more: no GPU"]
