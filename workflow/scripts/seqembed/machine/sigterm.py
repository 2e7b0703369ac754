"""SIGTERM, which asks a worker to write down what is finished and to leave."""

from __future__ import annotations

import signal
from typing import Any

from seqembed.errors import InterruptedRun


class Sigterm:
    """From its making on, the signal ends the process only where `leave_if_asked` is called."""

    def __init__(self) -> None:
        self._came = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: Any) -> None:
        # It may come twice in an instant: only a flag is safe.
        self._came = True

    def asked(self) -> bool:
        """Whether it came."""
        return self._came

    def leave_if_asked(self) -> None:
        """Raise InterruptedRun if it came."""
        if self._came:
            raise InterruptedRun("SIGTERM came; what is finished is kept, run again to go on")
