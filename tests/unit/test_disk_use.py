"""How much room the rows of a shard take on the disk while its workers come and go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import worker_runs
from worker_runs import EMBEDDING, WorkerProcess, make_project, make_sequences

# Of their size, a finished shard's rows may take so much before the shard is finished.
MOST = 2.05
TOKENS = {"embedding": EMBEDDING | {"per_residue": True}}


def count_bytes(folder: Path) -> int:
    """What the files below a folder take on the disk; a file with several names counts once."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                state = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            found[state.st_ino] = 512 * state.st_blocks
    return sum(found.values())


def note_bytes(folder: Path, target: Path, fault: Callable[[], None] | None = None) -> None:
    """Write down how much is used before each step at which it can become less."""

    def note_first(call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            with target.open("a") as file:
                file.write(f"{count_bytes(folder)}\n")
            return call(*arguments, **named)

        return noted

    for name in ("unlink", "remove", "rename", "replace", "kill"):
        setattr(os, name, note_first(getattr(os, name)))
    if fault:
        fault()


@pytest.mark.parametrize(
    ("changes", "count", "length"), [({}, 3000, 12), (TOKENS, 120, 100)], ids=["rows", "token rows"]
)
def test_rows_take_twice_the_room_of_their_shard_at_most(
    changes, count, length, context, prepared_model, tmp_path
):
    sequences = make_sequences([length] * count)
    project = make_project(tmp_path / "run", prepared_model, sequences)
    before, noted = count_bytes(project.results), tmp_path / "noted"
    changes = changes | {"checkpoint_seq_threshold": count // 6, "token_budget": 2048}

    def run(fault: Any = None) -> Any:
        watch = partial(note_bytes, project.results, noted, fault)
        return WorkerProcess(context, project, watch, **changes).finish()

    for _ in range(3):
        assert run(worker_runs.killed_after_a_block).exit_code == -9
    assert run().status["resumed_sequences"] >= count // 3
    size = 512 * (project.output / "shard_0.h5").stat().st_blocks
    # The blocks are gone.
    assert count_bytes(project.results) - before < 1.05 * size + 32_000
    (project.output / "shard_0.h5").unlink()
    # With other ids, the finished shard is written anew.
    make_project(project.folder, project.model, sequences, prefix="r")
    assert run().status["computed"] == 0
    size = 512 * (project.output / "shard_0.h5").stat().st_blocks
    peak = max(map(int, noted.read_text().split())) - before
    print(f"{len(noted.read_text().split())} steps: at most {peak / size:.3f} of {size:,} bytes")
    assert 1.5 * size < peak <= MOST * size
    assert count_bytes(project.results) - before < 1.05 * size + 32_000


def test_a_file_with_two_names_counts_once(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 8192)
    once = count_bytes(tmp_path)
    os.link(tmp_path / "a", tmp_path / "b")
    assert count_bytes(tmp_path) == once > 0
    shutil.copy(tmp_path / "a", tmp_path / "c")
    assert count_bytes(tmp_path) == 2 * once
