"""The memory limit of this process's control group, and the processes killed at that limit.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def count_oom_kills(own: Path = OWN_GROUPS, groups: Path = GROUPS) -> int | None:
    """Count the processes of our control group killed out of memory; None where unknown."""
    for folder in _memory_groups(own, groups):
        for name in ("memory.oom_control", "memory.events"):
            with suppress(OSError, ValueError, KeyError):
                lines = (folder / name).read_text().splitlines()
                return int(dict(line.split() for line in lines)["oom_kill"])
    return None


def memory_limit(own: Path = OWN_GROUPS, groups: Path = GROUPS) -> int | None:
    """The least limit of our control group and those around it, in bytes; None where none is."""
    limits = []
    for folder in _memory_groups(own, groups):
        for group in (folder, *folder.parents):
            for name in ("memory.limit_in_bytes", "memory.max"):
                # `max` means no limit, and is not a number.
                with suppress(OSError, ValueError):
                    limits.append(int((group / name).read_text()))
    return min(limits, default=None)


def _memory_groups(own: Path, groups: Path) -> Iterator[Path]:
    """The folders that our group may have: those of version 1 first, then of version 2."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield groups / "memory" / group.lstrip("/")
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            # In a container its own group is the root that it sees, whatever the kernel calls it.
            yield groups / group.lstrip("/")
            yield groups
