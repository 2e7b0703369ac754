"""Disks that are full or broken: errors of single calls, and a file system that is small."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scene import Scene
from settle import LEFT_OUT
from stages import Tree

FULL_CALLS = ("create", "write", "truncate", "rename", "link", "mkdir")
BROKEN_CALLS = (*FULL_CALLS, "sync", "unlink")
ROOMY = 256 << 20


def fill_at_a_call(scene: Scene) -> str:
    """ENOSPC: once, from a call on, or after the first half of a write."""
    return _fail(scene, FULL_CALLS, errno.ENOSPC)


def break_at_a_call(scene: Scene) -> str:
    """EIO in the same ways, and at fsync."""
    return _fail(scene, BROKEN_CALLS, errno.EIO)


def _fail(scene: Scene, kinds: tuple[str, ...], number: int) -> str:
    stage = scene.draw_stage()
    tree = scene.open(stage)
    action = scene.random.choice(("fail-once", "fail-on", "torn-fail"))
    kinds = ("write",) if action == "torn-fail" else kinds
    fault = scene.fault(tree, stage, kinds, action, errno=number)
    if scene.random.random() < 0.3:
        scene.tell("logs and temporary files, too")
        fault["FAULT_ROOT"] = str(tree.folder)
    ended = tree.run(stage, fault)
    return scene.settle(tree, stage, [ended])


def can_mount() -> bool:
    """Whether this is root on a machine that lets it mount."""
    return (
        os.geteuid() == 0 and subprocess.run(["mount", "-V"], capture_output=True).returncode == 0
    )


def fill_the_disk(scene: Scene) -> str:
    """A small file system for the results that fills somewhere; then it has room again."""
    if not can_mount():
        return LEFT_OUT
    stage = scene.draw_stage()
    tree = scene.open(stage)
    before = _size(tree.results)
    after = _size(scene.undisturbed.result)
    room = scene.random.randint(1, max(2, (after - before) // 4096 + 64)) * 4096
    scene.tell(f"{room:,} bytes of room")
    with _small_disk(tree, before + room):
        ended = tree.run(stage)
        again = f"remount,size={ROOMY}"
        subprocess.run(["mount", "-o", again, tree.folder / "results"], check=True)
        return scene.settle(tree, stage, [ended])


def _size(folder: Path) -> int:
    """What its files take on a tmpfs, in whole pages."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(-(-stat.st_size // 4096) * 4096 + 4096 for stat in files)


@contextmanager
def _small_disk(tree: Tree, size: int) -> Iterator[None]:
    """The tree's results on a file system of their own."""
    place, aside = tree.folder / "results", tree.folder / "aside"
    place.mkdir(exist_ok=True)
    place.rename(aside)
    place.mkdir()
    options = f"size={size}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "faults", place], check=True)
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", place], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def unmount_all(folder: Path) -> None:
    """Unmount what a case that was cut off left mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        if (place := line.split()[1]).startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", place], check=True)
