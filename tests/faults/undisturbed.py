"""The undisturbed run: a copy of its folder before each stage, and the calls that each makes."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from interposed import Sort, count_calls, faulty, read_trace
from stages import MODEL, RESULTS, STAGES, Running, Tree, copy_tree, remove, write_input

# Names of copies of the tree: after all stages, and amid embed_0.
AFTER, PARTIAL = "after", "partial"
DATASETS = ("embeddings", "sequence_ids", "lengths", "flags", "digests")
TOKENS = ("residues/embeddings", "residues/offsets")
# Blocks of rank 0 in the copy PARTIAL.
PARTIAL_BLOCKS = 5

Calls = Counter[Sort]


@dataclass(frozen=True)
class Undisturbed:
    """`folder/{stage}` is the tree before each stage; calls, seconds: of each stage."""

    folder: Path
    per_residue: bool
    scripts: Path
    library: Path
    calls: Mapping[str, Calls]
    seconds: Mapping[str, float]

    def open(self, point: str, target: Path) -> Tree:
        """A copy of the tree as it was before a stage, AFTER all, or PARTIAL: amid embed_0."""
        copy_tree(self.folder / point, target)
        return Tree(target, self.per_residue, self.scripts)

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
    write_input(tree.folder / "input.faa")
    calls: dict[str, Calls] = {}
    seconds: dict[str, float] = {}
    for stage in STAGES:
        copy_tree(tree.folder, folder / stage)
        trace = folder / f"{stage}.trace"
        environment = faulty(library, tree.folder, trace=trace)
        ended = tree.run(stage, watched(environment))
        assert ended.code == 0, ended.said
        calls[stage], seconds[stage] = count_calls(read_trace(trace)), ended.seconds
    tree.folder.rename(folder / AFTER)
    _cut_off(Tree(folder / PARTIAL, per_residue, scripts), folder)
    return Undisturbed(folder, per_residue, scripts, library, calls, seconds)


def watched(environment: Mapping[str, str]) -> dict[str, str]:
    """Logs and the programs' own words are no part of what is disturbed."""
    root = environment.get("FAULT_ROOT")
    return {**environment, "FAULT_ROOT": f"{root}/results"} if root else dict(environment)


def _cut_off(tree: Tree, folder: Path) -> None:
    """Kill rank 0 in the middle, and keep its first blocks: the same in every run."""
    copy_tree(folder / "embed_0", tree.folder)
    with Running(tree, "embed_0", {}) as running:
        while len(_blocks(tree)) <= PARTIAL_BLOCKS:
            running.wait(0.01)
            assert running.process.poll() is None, "it ended before it could be killed"
    for path in _blocks(tree)[PARTIAL_BLOCKS:]:
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
