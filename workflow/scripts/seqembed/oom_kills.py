"""What the kernel killed for want of memory in this process's control group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def count_oom_kills(own: Path = OWN_GROUPS, groups: Path = GROUPS) -> int | None:
    """How many processes of our control group the kernel has killed; None where it does not say.

    Source: Documentation/admin-guide/cgroup-v2.rst, memory.events; cgroup-v1/memory.rst,
    memory.oom_control.
    """
    for path in _event_files(own, groups):
        try:
            fields = dict(line.split() for line in path.read_text().splitlines())
            return int(fields["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return None


def _event_files(own: Path, groups: Path) -> Iterator[Path]:
    """Where the count may stand: version 1 of control groups first, then version 2."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield groups / "memory" / group.lstrip("/") / "memory.oom_control"
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            # In a container its own group is the root that it sees, whatever the kernel calls it.
            yield groups / group.lstrip("/") / "memory.events"
            yield groups / "memory.events"
