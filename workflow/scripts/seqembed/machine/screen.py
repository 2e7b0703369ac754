"""Lines on stderr that say how far a program is, few enough for many programs on one screen."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from seqembed.machine.words import format_seconds

# Told the share of a step that is done, from 0 to 1, and of how many sequences that is.
Report = Callable[[float, int], None]

# A line comes at each tenth, but no sooner and no later than these seconds after the line before.
SOONEST, LATEST = 10.0, 300.0


def write_line(text: str) -> None:
    """Write a line to stderr in one call, so that lines of several processes do not mix.

    A closed or full stderr is ignored: the run matters more than its lines.
    """
    # Python has no stderr if it was closed when Python started.
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
            os.write(sys.stderr.fileno(), f"{text}\n".encode(errors="replace"))


def no_report(share: float, count: int) -> None:
    """Report nothing."""


class ScreenProgress:
    """Writes how far a program is: at each tenth, and at least every LATEST seconds.

    label: begins each line. clock: returns seconds. write: takes a line.
    """

    def __init__(
        self,
        label: str,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] = write_line,
    ) -> None:
        self._label, self._clock, self._write = label, clock, write
        self._begin = self._written = clock()
        self._tenth = 0

    def say(self, text: str) -> None:
        """Write a line at once."""
        self._written = self._clock()
        self._write(f"{self._label}: {text}")

    def update(self, share: float, describe: Callable[[], str]) -> None:
        """Write a line if it is due. share: what is done, from 0 to 1. describe: says the rest."""
        since, tenth = self._clock() - self._written, int(10 * share)
        if since < SOONEST or (tenth <= self._tenth and since < LATEST):
            return
        self._tenth = tenth
        self.say(f"{int(100 * share)}%, {describe()}")

    def count(self, share: float, done: int) -> None:
        """Write a line if it is due, with a count and the time that is left at the speed so far.

        done: how many sequences the share is of.
        """

        def describe() -> str:
            left = (self._clock() - self._begin) * (1 - share) / max(share, 1e-9)
            return f"{done:,} sequences, {format_seconds(left)} left"

        self.update(share, describe)
