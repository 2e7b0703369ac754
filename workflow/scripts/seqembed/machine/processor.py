"""Read what Linux says about this machine's processor."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def read_processor(key: str) -> set[str]:
    """Return all words that /proc/cpuinfo has for a key; an empty set if it has no such key.

    key: on x86, "flags" gives the instruction sets, and "vendor_id" gives the maker.
    """
    lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    fields = (line.partition(":") for line in lines)
    return {word for name, _, value in fields if name.strip() == key for word in value.split()}


def name_processor() -> str:
    """Return the processor's name, such as "AMD EPYC 9B14"; its architecture if it has no name."""
    for line in CPUINFO.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return " ".join(value.split())
    return platform.machine()
