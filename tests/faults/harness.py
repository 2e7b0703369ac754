"""Disturb runs by seed, run them again, and count how they end; exit 1 where any ended badly.

Every case is a function of the seed and its number: `--only` runs one of them alone.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import crash_disk
import crash_inputs
import crash_kills
import crash_rest
import crash_reuse
import crash_workflow
from crash_workflow import WorkflowScene, WorkflowWorld, prepare_workflow
from interposed import compile_library
from scene import Scene
from settle import GOOD, Judged
from stages import ROOT, SCRIPTS
from undisturbed import Undisturbed, run_undisturbed, run_with_reuse

Crash = Callable[[Any], str]
Pair = tuple[Undisturbed, Undisturbed]

STAGE_KINDS: dict[str, Crash] = {
    "EIO at a call": crash_disk.break_at_a_call,
    "ENOSPC at a call": crash_disk.fill_at_a_call,
    "FASTA edited": crash_inputs.edit_fasta,
    "SIGTERM, SIGINT": crash_kills.ask_to_stop,
    "clock": crash_inputs.set_the_clock,
    "damage at rest": crash_rest.damage_at_rest,
    "driver killed": crash_kills.kill_driver,
    "folder removed": crash_inputs.remove_folder,
    "full disk": crash_disk.fill_the_disk,
    "kill at a call": crash_kills.kill_at_a_call,
    "kill at random": crash_kills.kill_at_random,
    "power cut": crash_kills.cut_the_power,
    "torn write": crash_kills.tear_a_write,
}
# Where a file of the setting `reuse` has half of the rows; of other shards, in half of the cases.
REUSE_KINDS: dict[str, Crash] = {
    "reuse: SIGTERM, SIGINT": crash_kills.ask_to_stop,
    "reuse: damage at rest": crash_reuse.damage_at_rest,
    "reuse: error at a call": crash_disk.break_at_a_call,
    "reuse: file removed": crash_reuse.replace_reuse_file,
    "reuse: kill at a call": crash_kills.kill_at_a_call,
    "reuse: kill at random": crash_kills.kill_at_random,
    "reuse: power cut": crash_kills.cut_the_power,
    "reuse: torn write": crash_kills.tear_a_write,
    "shards: another number": crash_reuse.change_shards,
    "shards: beside a worker": crash_reuse.change_shards_beside_a_worker,
}


@dataclass(frozen=True)
class Result:
    """How a case ended, and all that was told of it."""

    case: str
    kind: str
    outcome: str
    told: list[str]
    seconds: float

    def __str__(self) -> str:
        lines = "\n    ".join(self.told)
        return f"case {self.case}, {self.kind}: {self.outcome}, {self.seconds:.0f} s\n    {lines}"


@dataclass(frozen=True)
class World:
    """The undisturbed runs: without token rows and with them; through the workflow, if asked for.

    `folder` is where the cases are. reuse: the same with a file of the setting `reuse`.
    """

    folder: Path
    pair: Pair
    reuse: Pair
    workflow: WorkflowWorld | None = None

    def open(self, seed: int, case: str) -> tuple[str, Crash, Scene | WorkflowScene]:
        """The kind of a case, taken in turn, and its scene; all else is drawn by its seed."""
        random, folder = Random(f"{seed}/{case}"), self.folder / f"case_{case}"
        if case.startswith("r"):
            name, crash = _nth(REUSE_KINDS, int(case[1:]))
            plain = name.startswith("shards") and random.random() < 0.5
            return (
                name,
                crash,
                Scene(random, random.choice(self.pair if plain else self.reuse), folder),
            )
        if not case.startswith("w"):
            name, crash = _nth(STAGE_KINDS, int(case))
            return name, crash, Scene(random, random.choice(self.pair), folder)
        assert self.workflow
        name, crash = _nth(crash_workflow.KINDS, int(case[1:]))
        return name, crash, WorkflowScene(random, self.workflow, folder)


def _nth(kinds: Mapping[str, Crash], number: int) -> tuple[str, Crash]:
    return list(kinds.items())[number % len(kinds)]


def run_case(world: World, seed: int, case: str) -> Result:
    """One case: `w` and a number through the workflow, `r` of rows reused, else of one stage."""
    name, crash, scene = world.open(seed, case)
    began = time.monotonic()
    try:
        outcome = crash(scene)
    except Judged as judged:
        outcome = judged.kind
        scene.tell(judged.note)
    except Exception:  # noqa: BLE001 (a case that fails in the harness must not end all others)
        outcome = "harness failed"
        scene.tell(traceback.format_exc())
    shutil.rmtree(scene.folder, ignore_errors=True)
    return Result(case, name, outcome, scene.told, time.monotonic() - began)


def prepare(folder: Path, *, plain: bool = True, workflow: bool) -> World:
    """The undisturbed runs, of a copy of the programs: these may be edited while cases run.

    plain: also one without token rows.
    """
    library, scripts = compile_library(folder), folder / SCRIPTS
    shutil.copytree(ROOT / SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    tokens = run_undisturbed(folder / "tokens", scripts, library, per_residue=True)
    reuse = run_with_reuse(folder / "reuse", tokens)
    pairs = (tokens, tokens), (reuse, reuse)
    if plain:
        other = run_undisturbed(folder / "plain", scripts, library, per_residue=False)
        pairs = (other, tokens), (run_with_reuse(folder / "reuse_plain", other), reuse)
    whole = prepare_workflow(folder, tokens, reuse) if workflow else None
    return World(folder, *pairs, whole)


def run_all(world: World, seed: int, cases: Iterable[str], jobs: int) -> Iterator[Result]:
    """The results of these cases, as they come."""
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(run_case, world, seed, case) for case in cases]
        for future in as_completed(futures):
            yield future.result()


def table(results: Iterable[Result]) -> str:
    """Kinds by outcomes."""
    counts = Counter((result.kind, result.outcome) for result in results)
    outcomes = [*GOOD, *sorted({outcome for _, outcome in counts} - set(GOOD))]
    names = sorted({kind for kind, _ in counts})
    width = max(map(len, names), default=0)
    lines = ["  ".join([" " * width, *outcomes])]
    for name in names:
        cells = [f"{counts[name, outcome]:>{len(outcome)}}" for outcome in outcomes]
        lines.append("  ".join([name.ljust(width), *cells]))
    return "\n".join(lines)


def main() -> int:
    arguments = parse()
    # As an exception, so that what is mounted and made is cleared on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=arguments.folder))
    try:
        results = list(report(arguments, folder))
    finally:
        crash_disk.unmount_all(folder)
        shutil.rmtree(folder, ignore_errors=True)
    print(table(results))
    bad = sum(result.outcome not in GOOD for result in results)
    took = time.monotonic() - began
    print(f"{len(results)} cases of seed {arguments.seed}: {bad} ended badly; {took:,.0f} s")
    return 1 if bad else 0


def report(arguments: argparse.Namespace, folder: Path) -> Iterator[Result]:
    """Run what is asked for; print what ended badly as soon as it is known."""
    whole = [f"w{number}" for number in range(arguments.workflow)]
    # Every fourth case is of rows reused.
    reuse = [f"r{number}" for number in range(arguments.count // 4)]
    stages = map(str, range(arguments.count - len(reuse)))
    cases = arguments.only or [*stages, *reuse, *whole]
    world = prepare(folder, workflow=any(case.startswith("w") for case in cases))
    for result in run_all(world, arguments.seed, cases, arguments.jobs):
        if result.outcome not in GOOD or arguments.only or arguments.verbose:
            print(result, flush=True)
        yield result


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="cases at stage level")
    parser.add_argument("--workflow", type=int, default=40, help="cases through Snakemake")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="only these cases, as 7, r7 or w7; tell all")
    parser.add_argument("--verbose", action="store_true", help="tell of every case")
    parser.add_argument("--folder", help="where the trees are made, and removed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
