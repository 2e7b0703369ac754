"""Packages of Debian that tests need, installed where they are missing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence


def install_packages(packages: Sequence[str]) -> None:
    """Install packages by apt-get, as root; fail with what it says if it cannot."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        call = ["apt-get", *command]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(call)}:\n{done.stdout}{done.stderr}"
