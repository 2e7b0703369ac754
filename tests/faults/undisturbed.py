"""The undisturbed run: a copy of its folder before each stage, and the calls that each makes."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from interposed import Sort, count_calls, faulty, read_trace
from stages import (
    MODEL,
    RESULTS,
    REUSE,
    STAGES,
    Running,
    Tree,
    copy_tree,
    make_records,
    remove,
    write_records,
)

# Names of copies of the tree: after all stages, and amid embed_0.
AFTER, PARTIAL = "after", "partial"
DATASETS = ("embeddings", "sequence_ids", "lengths", "flags", "digests")
TOKENS = ("residues/embeddings", "residues/offsets")
# Blocks of rank 0 in the copy PARTIAL; fewer where half of the rows are reused.
PARTIAL_BLOCKS, PARTIAL_REUSE_BLOCKS = 5, 2

Calls = Counter[Sort]


@dataclass(frozen=True)
class Undisturbed:
    """`folder/{stage}` is the tree before each stage; calls, seconds: of each stage.

    reuse: as in Tree.
    """

    folder: Path
    per_residue: bool
    scripts: Path
    library: Path
    calls: Mapping[str, Calls]
    seconds: Mapping[str, float]
    reuse: tuple[str, ...] = ()

    def open(self, point: str, target: Path) -> Tree:
        """A copy of the tree as it was before a stage, AFTER all, or PARTIAL: amid embed_0."""
        copy_tree(self.folder / point, target)
        return Tree(target, self.per_residue, self.scripts, reuse=self.reuse)

    @property
    def result(self) -> Path:
        return self.folder / AFTER / RESULTS

    def files(self) -> set[str]:
        """What a run that ended well leaves under its results, and nothing else."""
        return list_files(self.result)


def run_undisturbed(
    folder: Path, scripts: Path, library: Path, *, per_residue: bool
) -> Undisturbed:
    """Run all stages, each once, and keep a copy of the tree before each."""
    folder.mkdir(parents=True)
    tree = Tree(folder / "now", per_residue, scripts)
    tree.folder.mkdir()
    shutil.copytree(MODEL, tree.folder / "model")
    write_records(tree.folder / "input.faa", make_records())
    return _run(tree, folder, library, STAGES)


def run_with_reuse(folder: Path, other: Undisturbed) -> Undisturbed:
    """The same from the split on, with a result of other sequences that shares half of them."""
    folder.mkdir(parents=True)
    for stage in STAGES[: STAGES.index("split")]:
        copy_tree(other.folder / stage, folder / stage)
    earlier = Tree(folder / "earlier", other.per_residue, other.scripts, shards=1)
    copy_tree(other.folder / "index", earlier.folder)
    records = make_records()
    new = [(f"n{n}", residues[::-1]) for n, (_, residues) in enumerate(records[:15])]
    write_records(earlier.folder / "input.faa", [*records[::2], *new])
    for stage in earlier.stages[1:]:
        assert earlier.run(stage).code == 0
    tree = Tree(folder / "now", other.per_residue, other.scripts, reuse=(REUSE,))
    copy_tree(other.folder / "split", tree.folder)
    (tree.folder / REUSE).parent.mkdir()
    shutil.copy(earlier.results / "embeddings.h5", tree.folder / REUSE)
    remove(earlier.folder)
    found = _run(tree, folder, other.library, STAGES[STAGES.index("split") :])
    assert not differences(read_result(found.result), read_result(other.result))
    return found


def _run(tree: Tree, folder: Path, library: Path, stages: Sequence[str]) -> Undisturbed:
    """Run these stages, and keep a copy of the tree before each."""
    calls: dict[str, Calls] = {}
    seconds: dict[str, float] = {}
    for stage in stages:
        copy_tree(tree.folder, folder / stage)
        trace = folder / f"{stage}.trace"
        environment = faulty(library, tree.folder, trace=trace)
        ended = tree.run(stage, watched(environment))
        assert ended.code == 0, ended.said
        calls[stage], seconds[stage] = count_calls(read_trace(trace)), ended.seconds
    tree.folder.rename(folder / AFTER)
    _cut_off(replace(tree, folder=folder / PARTIAL), folder)
    return Undisturbed(folder, tree.per_residue, tree.scripts, library, calls, seconds, tree.reuse)


def watched(environment: Mapping[str, str]) -> dict[str, str]:
    """Logs and the programs' own words are no part of what is disturbed."""
    root = environment.get("FAULT_ROOT")
    return {**environment, "FAULT_ROOT": f"{root}/results"} if root else dict(environment)


def _cut_off(tree: Tree, folder: Path) -> None:
    """Kill rank 0 in the middle, and keep its first blocks: the same in every run."""
    copy_tree(folder / "embed_0", tree.folder)
    count = PARTIAL_REUSE_BLOCKS if tree.reuse else PARTIAL_BLOCKS
    with Running(tree, "embed_0", {}) as running:
        while len(_blocks(tree)) <= count:
            running.wait(0.01)
            assert running.process.poll() is None, "it ended before it could be killed"
    for path in _blocks(tree)[count:]:
        path.unlink()
    for path in [*tree.results.rglob(".*.tmp"), *_unnamed_residues(tree)]:
        path.unlink()
    remove(tree.folder / "tmp")


def _blocks(tree: Tree) -> list[Path]:
    return sorted(tree.results.glob("checkpoints/*/shard_0/batch_*.safetensors"))


def _unnamed_residues(tree: Tree) -> list[Path]:
    """Token rows of no block."""
    content = b"".join(path.read_bytes() for path in _blocks(tree))
    found = tree.results.glob("checkpoints/*/shard_0/residues_*.raw")
    return [path for path in found if path.name.encode() not in content]


def list_files(folder: Path) -> set[str]:
    """Paths of all files below a folder, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def read_result(results: Path) -> dict[str, Any]:
    """All that must equal the undisturbed run's, by name."""
    with h5py.File(results / "embeddings.h5", "r", locking=False) as file:
        found: dict[str, Any] = {
            name: file[name][:].tolist() if name == "sequence_ids" else file[name][:]
            for name in (*DATASETS, *TOKENS)
            if name in file
        }
        found["attributes"] = {k: v for k, v in file.attrs.items() if k != "created"}
    found["quarantine"] = (results / "quarantine.tsv").read_bytes()
    return found


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """The names under which two results are not equal to the bit."""
    return [
        name
        for name in sorted(set(found) | set(expected))
        if name not in found or name not in expected or not _equal(found[name], expected[name])
    ]


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return left.shape == right.shape and left.tobytes() == right.tobytes()
    return bool(left == right)
