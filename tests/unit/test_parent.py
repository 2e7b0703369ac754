"""A process that ends with its parent: what the supervisor's tests cannot time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from worker_runs import SCRIPTS

PROGRAM = """\
import os, signal
from seqembed.machine.parent import die_with_parent
die_with_parent({parent}, signal.SIGTERM)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such thing")
@pytest.mark.parametrize(
    ("parent", "code"), [("os.getppid()", 0), ("os.getpid()", -signal.SIGTERM)]
)
def test_whose_parent_is_gone_before_it_asks_ends_at_once(parent, code):
    """Nobody would send the signal any more. The second is never its own parent."""
    command = [sys.executable, "-c", PROGRAM.format(parent=parent)]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    assert subprocess.run(command, env=environment).returncode == code
