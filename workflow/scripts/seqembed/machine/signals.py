"""Handle the signals that ask a process to stop; have a signal sent when its parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

from seqembed.errors import InterruptedRun

KEPT = "what is finished is kept"
RUN_AGAIN = f"{KEPT}, run again to go on"
STOPPED = f"stopped by a signal; {RUN_AGAIN}"
# linux/prctl.h
PR_SET_PDEATHSIG = 1


class StopFlag:
    """Records that SIGTERM came (or SIGINT, if `ctrl_c`), which no longer ends the process."""

    def __init__(self, *, ctrl_c: bool = False) -> None:
        self._raised = False
        signal.signal(signal.SIGTERM, self._raise)
        if ctrl_c:
            signal.signal(signal.SIGINT, self._raise)

    def _raise(self, number: int, frame: Any) -> None:
        # A second signal may interrupt this handler: only setting a flag is safe here.
        self._raised = True

    def asked(self) -> bool:
        """Whether a handled signal came."""
        return self._raised

    def leave_if_asked(self) -> None:
        """Raise InterruptedRun if a handled signal came."""
        if self._raised:
            raise InterruptedRun(STOPPED)


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Have the kernel send the signal `number` to this process when its parent ends.

    parent: the parent's pid; if the parent has ended already, the signal comes at once. Does
    nothing on systems other than Linux. Raises OSError if the kernel refuses.
    """
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl: {os.strerror(code)}")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
