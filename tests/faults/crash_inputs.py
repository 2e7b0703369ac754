"""What changes around a run: the FASTA between stages, the clock, and folders that are removed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from interposed import faulty
from scene import Scene
from stages import RESULTS, STAGES, Running, Tree, remove, write_records
from undisturbed import AFTER, PARTIAL, read_result

Records = list[tuple[str, str]]
Edit = Callable[[Records, Random], Records]

ROWS = ("embeddings", "lengths", "flags", "digests")
CLOCKS = (-3600, -86400 * 400, -1_500_000_000, 86400 * 400)
CHECKPOINTS = ("checkpoints", "checkpoints/*", "checkpoints/*/shard_0")
FOLDERS = (*CHECKPOINTS, "shards", "store", "recipes", "index", "index.parquet", "")


def edit_fasta(scene: Scene) -> str:
    """The FASTA is edited after a stage; the result is of the old records, or of the new."""
    point = scene.random.choice(("split", "split", "embed_0", "embed_1", "merge", AFTER))
    tree = scene.open(point)
    before = read_records(tree.folder / "input.faa")
    edit = scene.random.choice(EDITS)
    after = edit(list(before), scene.random)
    write_records(tree.folder / "input.faa", after)
    # After split nobody opens the FASTA, until Snakemake sees that it is newer than the index.
    again = point == AFTER or scene.random.random() < 0.5
    stage = "index" if again else point
    scene.tell(f"{edit.__name__}, then {stage}")
    expected = expect(read_result(scene.undisturbed.result), before, after)
    return scene.settle(tree, stage, expected=expected, may_be_damaged=True)


def read_records(path: Path) -> Records:
    parts = path.read_text().split(">")[1:]
    return [(head, body.strip()) for head, _, body in (part.partition("\n") for part in parts)]


def drop_some(records: Records, random: Random) -> Records:
    return [record for record in records if random.random() < 0.8]


def shuffle(records: Records, random: Random) -> Records:
    random.shuffle(records)
    return records


def rename_one(records: Records, random: Random) -> Records:
    place = random.randrange(len(records))
    records[place] = (f"renamed{place} now", records[place][1])
    return records


def repeat_one(records: Records, random: Random) -> Records:
    place = random.randrange(len(records))
    records.insert(random.randrange(len(records)), ("twin of", records[place][1]))
    return records


def exchange_residues(records: Records, random: Random) -> Records:
    here, there = random.sample(range(len(records)), 2)
    records[here] = (records[here][0], records[there][1])
    return records


def touch(records: Records, random: Random) -> Records:
    return records


EDITS: tuple[Edit, ...] = (drop_some, shuffle, rename_one, repeat_one, exchange_residues, touch)


def expect(undisturbed: dict[str, Any], before: Records, after: Records) -> dict[str, Any]:
    """The result of other records of the same sequences: each row is its sequence's alone."""
    names = [name.decode() for name in undisturbed["sequence_ids"]]
    sequences = {head.split()[0]: residues for head, residues in before}
    rows = {sequences[name]: row for row, name in enumerate(names)}
    kept = [(head.split()[0], rows[residues]) for head, residues in after if residues in rows]
    order = np.array([row for _, row in kept], np.int64)
    result = {name: undisturbed[name][order] for name in ROWS}
    result["sequence_ids"] = [name.encode() for name, _ in kept]
    if "residues/offsets" in undisturbed:
        offsets, tokens = undisturbed["residues/offsets"], undisturbed["residues/embeddings"]
        parts = [tokens[offsets[row] : offsets[row + 1]] for row in order]
        counts = [len(part) for part in parts]
        result["residues/embeddings"] = np.concatenate(parts)
        result["residues/offsets"] = np.cumsum([0, *counts], dtype=np.int64)
    return result


def set_the_clock(scene: Scene) -> str:
    """The clock goes back or forth, and files are newer or older than what is made of them."""
    stage = scene.draw_stage(STAGES)
    tree = scene.open(scene.random.choice((stage, PARTIAL if stage == "embed_0" else stage)))
    offset = scene.random.choice(CLOCKS)
    scene.tell(f"{offset} s, then {stage}")
    if scene.random.random() < 0.5:
        _shift_times(tree, scene.random)
    environment = faulty(scene.undisturbed.library, tree.folder / "none", clock=offset)
    ended = tree.run(stage, environment)
    return scene.settle(tree, stage, [ended])


def _shift_times(tree: Tree, random: Random) -> None:
    for path in sorted(tree.folder.rglob("*")):
        moment = time.time() + random.choice(CLOCKS)
        os.utime(path, (moment, moment))


def remove_folder(scene: Scene) -> str:
    """A folder of the results is removed, before a stage or in the middle of it."""
    at_rest = scene.random.random() < 0.5
    stage = scene.draw_stage()
    resumes = stage == "embed_0" and scene.random.random() < 0.5
    tree = scene.open(PARTIAL if resumes else stage)
    name = scene.random.choice(FOLDERS)
    moment = 0.0 if at_rest else scene.draw_moment(stage)
    scene.tell(f"{RESULTS}/{name} removed after {moment:.2f} s of {stage}")

    def take_away(running: Running) -> None:
        running.wait(moment)
        _remove(tree, name)

    if at_rest:
        _remove(tree, name)
    ended = [] if at_rest else [tree.run(stage, meanwhile=take_away)]
    return scene.settle(tree, stage, ended, may_be_damaged=True)


def _remove(tree: Tree, name: str) -> None:
    for path in sorted(tree.results.glob(name)) if "*" in name else [tree.results / name]:
        for _ in range(10):
            try:
                remove(path)
                break
            except OSError:
                # A worker wrote into it meanwhile.
                continue
