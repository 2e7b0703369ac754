"""SIGTERM, which asks a worker to write down what is finished and to leave."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any, TypeVar

from seqembed.errors import InterruptedRun

Item = TypeVar("Item")


class Sigterm:
    """From its making on, the signal ends the process only where `leave_if_asked` is called.

    came: whether it did.
    """

    def __init__(self) -> None:
        self.came = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: Any) -> None:
        # It may come twice in an instant: only a flag is safe.
        self.came = True

    def leave_if_asked(self) -> None:
        """Raise InterruptedRun if it came."""
        if self.came:
            raise InterruptedRun("SIGTERM came; what is finished is kept, run again to go on")

    def until_asked(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, but none more once it came."""
        return takewhile(lambda _: not self.came, items)
