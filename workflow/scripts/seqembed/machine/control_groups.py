"""What the kernel says of this process's control group: its memory, and what it killed for it.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def count_oom_kills(own: Path = OWN_GROUPS, groups: Path = GROUPS) -> int | None:
    """How many processes of our control group the kernel has killed; None where it does not say."""
    for folder in _memory_groups(own, groups):
        for name in ("memory.oom_control", "memory.events"):
            with suppress(OSError, ValueError, KeyError):
                lines = (folder / name).read_text().splitlines()
                return int(dict(line.split() for line in lines)["oom_kill"])
    return None


def memory_limit(own: Path = OWN_GROUPS, groups: Path = GROUPS) -> int | None:
    """Bytes that our control group may hold, as may each one around it; None where none is set."""
    limits = []
    for folder in _memory_groups(own, groups):
        for group in (folder, *folder.parents):
            for name in ("memory.limit_in_bytes", "memory.max"):
                # `max` stands for no limit, and is no number.
                with suppress(OSError, ValueError):
                    limits.append(int((group / name).read_text()))
    return min(limits, default=None)


def _memory_groups(own: Path, groups: Path) -> Iterator[Path]:
    """Folders of our group, as far as they are there: those of version 1 first, then version 2."""
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
