"""Read the memory limit of this process's control group, and count processes killed at the limit.

own: the kernel's list of this process's groups. groups: the folder of all groups. The files are
described in the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def count_oom_kills(own: Path = OWN_GROUPS, groups: Path = GROUPS) -> int | None:
    """Return how many processes of the group were killed for lack of memory; None if unknown."""
    for folder in _memory_groups(own, groups):
        for name in ("memory.oom_control", "memory.events"):
            with suppress(OSError, ValueError, KeyError):
                lines = (folder / name).read_text().splitlines()
                return int(dict(line.split() for line in lines)["oom_kill"])
    return None


def memory_limit(own: Path = OWN_GROUPS, groups: Path = GROUPS) -> int | None:
    """Return the lowest memory limit, in bytes, of the group and its parents; None: no limit."""
    limits = []
    for folder in _memory_groups(own, groups):
        for group in (folder, *folder.parents):
            for name in ("memory.limit_in_bytes", "memory.max"):
                # `max` means no limit, and is not a number.
                with suppress(OSError, ValueError):
                    limits.append(int((group / name).read_text()))
    return min(limits, default=None)


def _memory_groups(own: Path, groups: Path) -> Iterator[Path]:
    """Yield the folders that this process's group may have in cgroup versions 1 and 2."""
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if "memory" in controllers.split(","):
                yield groups / "memory" / group.lstrip("/")
            elif not controllers:
                # In a container, `groups` itself is the group; the kernel's name may lead nowhere.
                yield from (groups / group.lstrip("/"), groups)
