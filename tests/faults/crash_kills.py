"""Processes killed or asked to stop: at any instant, at named calls, and at a power cut."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from interposed import Call, read_trace
from scene import Scene
from settle import Judged
from stages import Running, remove

from seqembed.worker.heartbeat import NAME

ALL_CALLS = ("create", "write", "sync", "truncate", "rename", "link", "unlink", "mkdir")
# What holds no results: a note of what was at work, and what is locked.
IN_PLACE = ("in_flight.json", "lock")
# A file that is of no use after the machine has stopped.
NOT_SYNCED = (NAME,)
STOPS = (signal.SIGTERM, signal.SIGINT)
# An entry dies with the shell that stands for the driver.
SHELL = '"$@" --parent $$ & wait'


def kill_at_random(scene: Scene) -> str:
    """SIGKILL of the worker, of its supervisor, or of all, once to three times."""
    stage = scene.draw_stage()
    tree, ended = scene.open(stage), []
    for _ in range(scene.random.choice((1, 1, 1, 2, 3))):
        moment, whom = scene.draw_moment(stage), scene.random.choice(("worker", "entry", "all"))
        scene.tell(f"{whom} killed after {moment:.2f} s")

        def kill(running: Running, moment: float = moment, whom: str = whom) -> None:
            running.wait(moment)
            running.kill(_victims(running, whom))

        ended.append(tree.run(stage, meanwhile=kill))
    return scene.settle(tree, stage, ended)


def _victims(running: Running, whom: str) -> list[int]:
    worker = running.worker()
    if whom == "all":
        return running.alive()
    return [worker] if whom == "worker" and worker else [running.process.pid]


def kill_driver(scene: Scene) -> str:
    """SIGKILL of the driver alone; the next run begins while its orphans may still write."""
    stage = scene.draw_stage(("embed_0", "embed_1"))
    tree, moment = scene.open(stage), scene.draw_moment(stage)
    scene.tell(f"the driver is killed after {moment:.2f} s")
    shell = ["sh", "-c", SHELL, "driver", *tree.command(stage)]
    with Running(tree, stage, {}, shell) as orphans:
        orphans.wait(moment)
        orphans.kill([orphans.process.pid])
        result = scene.settle(tree, stage)
        scene.settle(tree, stage, [orphans.finish()], signalled=True)
    return result


def kill_at_a_call(scene: Scene) -> str:
    """SIGKILL before or after a call that changes a file."""
    stage = scene.draw_stage()
    tree, ended = scene.open(stage), []
    for _ in range(scene.random.choice((1, 1, 1, 2))):
        action = scene.random.choice(("kill-before", "kill-after"))
        ended.append(tree.run(stage, scene.fault(tree, stage, ALL_CALLS, action)))
    return scene.settle(tree, stage, ended)


def tear_a_write(scene: Scene) -> str:
    """The first half of a write arrives; then the program is killed."""
    stage = scene.draw_stage()
    tree = scene.open(stage)
    ended = tree.run(stage, scene.fault(tree, stage, ("write",), "torn-kill"))
    return scene.settle(tree, stage, [ended])


def cut_the_power(scene: Scene) -> str:
    """A kill, after which what was not synced is not there."""
    stage = scene.draw_stage()
    tree = scene.open(stage)
    action = scene.random.choice(("kill-before", "kill-after"))
    trace = tree.folder / "tmp/trace"
    # The worker's end is not the last that happens: an entry would go on writing.
    fault = scene.fault(tree, stage, ALL_CALLS, action, trace=trace)
    ended = tree.run(stage, fault)
    calls = read_trace(trace)
    trace.unlink(missing_ok=True)
    scene.tell("not synced:", *lose_unsynced(calls))
    return scene.settle(tree, stage, [ended])


def lose_unsynced(calls: list[Call]) -> list[str]:
    """Undo what no sync had made durable; return what was undone.

    A name that its folder's sync did not follow is gone, or back where it was; a file with writes
    that no sync followed keeps its first half. Raises Judged for what should have been durable.
    """
    names: dict[Path, Call] = {}
    written: set[Path] = set()
    for call in calls:
        source = Path(call.source)
        if call.kind in ("write", "truncate"):
            written.add(call.path)
        elif call.kind == "sync":
            written.discard(call.path)
            names = {path: old for path, old in names.items() if path.parent != call.path}
        elif call.kind in ("rename", "link", "create"):
            if call.kind == "create" and not call.path.name.startswith((".", "#", *IN_PLACE)):
                raise Judged("not durable", f"{call.path.name} is written under its final name")
            if source in written and call.path.name not in NOT_SYNCED:
                raise Judged("not durable", f"{call.path.name} is there before it was synced")
            names[call.path] = call
            if call.kind == "rename":
                names.pop(source, None)
    _check_durable(list(names.values()))
    for path in filter(Path.is_file, written):
        os.truncate(path, path.stat().st_size // 2)
    for path, call in names.items():
        if path.is_file():
            path.rename(call.source) if call.kind == "rename" else remove(path)
    return sorted({path.name for path in {*written, *names}})


def _check_durable(unsynced: list[Call]) -> None:
    """Each process goes on only when the name that it gave a file is there for good."""
    lasting = [call for call in unsynced if call.path.name not in NOT_SYNCED]
    given = [call for call in lasting if call.kind != "create" and call.path.suffix != ".tmp"]
    for role in {call.role for call in given}:
        own = [call.path.name for call in given if call.role == role]
        if len(own) > 1:
            raise Judged("not durable", f"names of the {role} that no sync followed: {own}")


def ask_to_stop(scene: Scene) -> str:
    """SIGTERM or SIGINT, once or twice, to the entry or to its whole group."""
    stage = scene.draw_stage()
    tree, number = scene.open(stage), scene.random.choice(STOPS)
    moment, times = scene.draw_moment(stage), scene.random.choice((1, 2))
    group = scene.random.random() < 0.5
    gap = scene.random.choice((0.0, 0.01, 0.3))
    scene.tell(f"{number.name} {times}x after {moment:.2f} s to {'all' if group else 'the entry'}")

    def stop(running: Running) -> None:
        running.wait(moment)
        for _ in range(times):
            running.kill(running.alive() if group else [running.process.pid], number)
            time.sleep(gap)

    ended = tree.run(stage, meanwhile=stop)
    return scene.settle(tree, stage, [ended], signalled=True)
