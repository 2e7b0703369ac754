"""What the programs of `make gpu` refuse, keep and choose, without a card."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("has_plugin", "more"), [(True, []), (False, ["-p", "no:timeout"])])
def test_the_tests_of_a_card_need_no_plugin_for_timeouts(has_plugin, more, load):
    words = [*load("gpu_tests").timeout_words(has_plugin), *more, "-W", "default"]
    command = [sys.executable, "-m", "pytest", "tests/gpu/test_devices_gpu.py", "--collect-only"]
    ended = subprocess.run([*command, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stdout
