"""Damage at rest: files cut short, zeroed, flipped, emptied, removed, or folders in their place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from scene import Scene
from stages import RESULTS, Tree, remove
from undisturbed import AFTER, PARTIAL

Damage = Callable[[Path, Random], None]

# By kind of file: a pattern, and the points and stages at which there is such a file.
Files = Mapping[str, tuple[str, tuple[tuple[str, str], ...]]]

# Of each kind of file: its pattern, the points at which it is there, and the stage that is run
# then, which reads it or makes it anew.
FILES: Files = {
    "index": (f"{RESULTS}/index.parquet", (("split", "split"), ("merge", "merge"))),
    "residues": (f"{RESULTS}/residues.bin", (("split", "split"),)),
    "shard index": (f"{RESULTS}/index/shard_0.parquet", (("embed_0", "embed_0"),)),
    "shard index, adopted": (
        f"{RESULTS}/checkpoints/*/shard_0/index.parquet",
        ((PARTIAL, "embed_0"),),
    ),
    "recipe": (f"{RESULTS}/recipes/*.json", ((PARTIAL, "embed_0"), ("embed_1", "embed_1"))),
    "model": ("resources/models/demo.json", (("index", "index"), ("embed_0", "embed_0"))),
    "weights": ("model/model.safetensors", (("embed_0", "embed_0"),)),
    # As when the disk itself errs: no time tells of it.
    "rotten weights": ("model/model.safetensors", (("embed_0", "embed_0"),)),
    "manifest": (f"{RESULTS}/checkpoints/*/shard_0/manifest.json", ((PARTIAL, "embed_0"),)),
    "block": (f"{RESULTS}/checkpoints/*/shard_0/batch_*.safetensors", ((PARTIAL, "embed_0"),)),
    "token rows": (f"{RESULTS}/checkpoints/*/shard_0/residues_*.raw", ((PARTIAL, "embed_0"),)),
    "finished shard": (f"{RESULTS}/checkpoints/*/shard_0/shard_0.h5", (("embed_1", "embed_0"),)),
    "shard": (f"{RESULTS}/shards/shard_1.h5", (("merge", "merge"),)),
    "store": (f"{RESULTS}/store/*.h5", ((AFTER, "merge"), (AFTER, "embed_0"), (AFTER, "index"))),
    "result": (f"{RESULTS}/embeddings.h5", ((AFTER, "merge"), (AFTER, "embed_0"))),
    "quarantine": (f"{RESULTS}/quarantine.tsv", ((AFTER, "merge"),)),
}


def cut(path: Path, random: Random) -> None:
    os.truncate(path, random.randrange(path.stat().st_size))


def zero(path: Path, random: Random) -> None:
    size = path.stat().st_size
    begin = random.randrange(size)
    length = min(random.choice((1, 16, 512, 4096)), size - begin)
    _write(path, begin, bytes(length))


def flip(path: Path, random: Random) -> None:
    """One bit; of a large file as likely within its first page, where the headers are."""
    size = path.stat().st_size
    place = random.randrange(min(size, random.choice((1024, size))))
    content = path.read_bytes()[place]
    _write(path, place, bytes([content ^ 1 << random.randrange(8)]))


def _write(path: Path, begin: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(content)


def empty(path: Path, random: Random) -> None:
    os.truncate(path, 0)


def lose(path: Path, random: Random) -> None:
    path.unlink()


def replace_by_folder(path: Path, random: Random) -> None:
    path.unlink()
    path.mkdir()


# Bits flip in more ways than a file can be missing.
WAYS: tuple[Damage, ...] = (cut, zero, zero, flip, flip, flip, empty, lose, replace_by_folder)


def damage_one(files: Files, scene: Scene) -> tuple[Tree, str, str, str]:
    """Damage one of the files; return the tree, the kind of file, the point and the stage."""
    kind, way = scene.random.choice(list(files)), scene.random.choice(WAYS)
    pattern, points = files[kind]
    point, stage = scene.random.choice(points)
    tree = scene.open(point)
    path = scene.random.choice(sorted(tree.folder.glob(pattern)))
    scene.tell(f"{kind}: {way.__name__} {path.relative_to(tree.folder)}; {stage}")
    way(path, scene.random)
    return tree, kind, point, stage


def damage_at_rest(scene: Scene) -> str:
    """One file is damaged; the stage that meets it notices, or gives the same bytes."""
    there = [k for k in FILES if k != "token rows" or scene.undisturbed.per_residue]
    tree, kind, point, stage = damage_one({kind: FILES[kind] for kind in there}, scene)
    if kind == "rotten weights":
        os.utime(tree.folder / "resources/models/demo.json", (time.time() + 3600,) * 2)
    if point == AFTER and stage != "merge":
        remove(tree.results / "shards")
    elif scene.random.random() < 0.5:
        tree.remove_outputs(stage)
    return scene.settle(tree, stage, may_be_damaged=True)
