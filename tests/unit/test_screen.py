"""Lines on stderr that say how far a program is."""

from __future__ import annotations

import subprocess
import sys

import pytest

import seqembed
from seqembed.machine.screen import ScreenProgress


class Screen:
    """A screen whose clock the test sets; lines: what was written."""

    def __init__(self) -> None:
        self.now, self.lines = 0.0, []
        self.progress = ScreenProgress("merge demo", lambda: self.now, self.lines.append)

    def at(self, now: float, share: float) -> int:
        """How many lines there are, after `share` was done at a time."""
        self.now = now
        self.progress.count(share, int(1000 * share))
        return len(self.lines)


@pytest.fixture
def screen() -> Screen:
    return Screen()


def test_a_short_step_writes_nothing(screen):
    assert [screen.at(now, now / 10) for now in (0.0, 3.0, 9.9)] == [0, 0, 0]


def test_a_line_comes_at_each_tenth_but_at_most_every_ten_seconds(screen):
    steps = ((10, 0.05), (11, 0.1), (20, 0.2), (21, 0.3), (21.5, 0.39), (40, 0.45), (99, 0.49))
    assert [screen.at(*step) for step in steps] == [0, 1, 1, 2, 2, 3, 3]
    assert screen.lines == [
        "merge demo: 10%, 100 sequences, 2 min left",
        "merge demo: 30%, 300 sequences, 49 s left",
        "merge demo: 45%, 450 sequences, 49 s left",
    ]


def test_a_slow_step_writes_a_line_every_five_minutes(screen):
    assert [screen.at(now, 0.01) for now in (299, 300, 599, 600, 901)] == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full", "2> >(head -c1 >/dev/null; sleep 9)"])
def test_a_line_that_cannot_be_written_is_left_out(where):
    code = "from seqembed.machine.screen import write_line; [write_line('x' * 9) for _ in range(3)]"
    command = f'PYTHONPATH={seqembed.__path__[0]}/.. exec {sys.executable} -c "{code}" {where}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
