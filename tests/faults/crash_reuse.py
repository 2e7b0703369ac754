"""Faults around rows that are reused: of an earlier result, and of another number of shards."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from crash_rest import WAYS, Files, damage_one
from scene import Scene
from settle import Judged, held, is_clear, read_digests
from stages import RESULTS, REUSE, Running, Tree, remove
from undisturbed import PARTIAL

EMBED = ("embed_0", "embed_1")
COUNTS = (1, 3, 4, 5)
TAKEN = f"{RESULTS}/checkpoints/*/shard_0/taken/*"
# As in crash_rest.
FILES: Files = {
    "reuse file": (
        REUSE,
        (("split", "split"), *((stage, stage) for stage in EMBED), ("merge", "merge")),
    ),
    "sources": (f"{RESULTS}/index/reuse.json", (("embed_0", "embed_0"), ("embed_1", "embed_1"))),
    "taken": (TAKEN, ((PARTIAL, "embed_0"), ("merge", "merge"))),
    "reused.json": (f"{RESULTS}/checkpoints/*/shard_0/reused.json", ((PARTIAL, "embed_0"),)),
    "shard": (f"{RESULTS}/shards/shard_0.h5", (("merge", "merge"),)),
}


def damage_at_rest(scene: Scene) -> str:
    """A file that says what is reused, or holds it, is damaged: its rows come from elsewhere."""
    tree, _, _, stage = damage_one(dict(sorted(FILES.items())), scene)
    if scene.random.random() < 0.5:
        tree.remove_outputs(stage)
    return scene.settle(tree, stage, may_be_damaged=True)


def replace_reuse_file(scene: Scene) -> str:
    """The reuse file is removed or replaced, before a stage or in the middle of it."""
    stage = scene.draw_stage(("split", *EMBED, "merge"))
    tree = scene.open(PARTIAL if stage == "embed_0" and scene.random.random() < 0.5 else stage)
    moment = scene.random.choice((0.0, scene.draw_moment(stage)))
    other = scene.random.choice(("removed", "replaced", "made a folder"))
    scene.tell(f"the reuse file is {other} after {moment:.2f} s of {stage}")

    def disturb(running: Running) -> None:
        running.wait(moment)
        _replace(tree, scene.undisturbed.result, other)

    if moment:
        ended = [tree.run(stage, meanwhile=disturb)]
        return scene.settle(tree, stage, ended, may_be_damaged=True)
    _replace(tree, scene.undisturbed.result, other)
    return scene.settle(tree, stage, may_be_damaged=True)


def _replace(tree: Tree, result: Path, other: str) -> None:
    """As a run that makes the file anew, in a folder of its own, and renames it."""
    path = tree.folder / REUSE
    if other == "replaced":
        shutil.copy(result / "embeddings.h5", path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)
        return
    remove(path)
    if other == "made a folder":
        path.mkdir()


def change_shards(scene: Scene) -> str:
    """After a kill the run goes on with another number of shards, once or twice."""
    tree, damaged = scene.open(scene.random.choice((PARTIAL, *EMBED))), False
    _kill(scene, tree)
    for _ in range(scene.random.choice((1, 1, 2))):
        tree = replace(tree, shards=scene.random.choice([n for n in COUNTS if n != tree.shards]))
        scene.tell(f"{tree.shards} shards")
        tree.remove_outputs("split")
        if scene.random.random() < 0.5:
            assert tree.run("split").code == 0
            _kill(scene, tree)
        elif scene.random.random() < 0.5:
            damaged = _damage(scene, tree) or damaged
    if damaged:
        return scene.settle(tree, "split", may_be_damaged=True)
    wanted = read_digests(scene.undisturbed.result / "embeddings.h5")
    return scene.settle(tree, "split", to_compute=len(wanted - held(tree)))


def _kill(scene: Scene, tree: Tree) -> None:
    """Kill all of a stage of embedding."""
    stage = f"embed_{scene.random.randrange(tree.shards)}"
    moment = scene.draw_moment("embed_0")
    scene.tell(f"{stage} killed after {moment:.2f} s")

    def kill(running: Running) -> None:
        running.wait(moment)
        running.kill(running.alive())

    tree.run(stage, meanwhile=kill)


def _damage(scene: Scene, tree: Tree) -> bool:
    """Damage a file of a checkpoint, if there is any."""
    paths = sorted(path for path in tree.results.glob("checkpoints/*/*/**/*") if path.is_file())
    paths = [path for path in paths if path.stat().st_size]
    if paths:
        path, way = scene.random.choice(paths), scene.random.choice(WAYS)
        scene.tell(f"{way.__name__} {path.relative_to(tree.folder)}")
        way(path, scene.random)
    return bool(paths)


def change_shards_beside_a_worker(scene: Scene) -> str:
    """While a worker of a killed run computes on, a run with other shards goes to its end."""
    tree, moment = scene.open(scene.draw_stage(EMBED)), scene.draw_moment("embed_0")
    stage = "embed_0" if not tree.is_done("embed_0") else "embed_1"
    with Running(tree, stage, {}) as orphan:
        orphan.wait(moment)
        tree = replace(tree, shards=scene.random.choice(COUNTS))
        scene.tell(f"{tree.shards} shards after {moment:.2f} s of {stage}, which goes on")
        tree.remove_outputs("split")
        result = scene.settle(tree, "split", beside_a_worker=True)
        ended = orphan.finish()
        scene.tell(f"exit code {ended.code}: {ended.last_line[:300]}")
        if "Traceback" in ended.said or not (ended.code == 0 or is_clear(ended.last_line)):
            raise Judged("traceback", ended.said[-1500:])
    return result
