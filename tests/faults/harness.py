"""Disturb runs by seed, run them again, and count how they end; exit 1 where any ended badly.

Every case is a function of the seed and its number: `--only` runs one of them alone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from random import Random

import crash_disk
import crash_inputs
import crash_kills
import crash_rest
from interposed import compile_library
from scene import Scene
from settle import GOOD, Judged
from undisturbed import Undisturbed, run_undisturbed

Crash = Callable[[Scene], str]
Pair = tuple[Undisturbed, Undisturbed]

NEED_LIBRARY: dict[str, Crash] = {
    "kill at a call": crash_kills.kill_at_a_call,
    "torn write": crash_kills.tear_a_write,
    "power cut": crash_kills.cut_the_power,
    "ENOSPC at a call": crash_disk.fill_at_a_call,
    "EIO at a call": crash_disk.break_at_a_call,
    "clock": crash_inputs.set_the_clock,
}
KINDS: dict[str, Crash] = {
    "kill at random": crash_kills.kill_at_random,
    "driver killed": crash_kills.kill_driver,
    "SIGTERM, SIGINT": crash_kills.ask_to_stop,
    "full disk": crash_disk.fill_the_disk,
    "damage at rest": crash_rest.damage_at_rest,
    "FASTA edited": crash_inputs.edit_fasta,
    "folder removed": crash_inputs.remove_folder,
    **NEED_LIBRARY,
}


@dataclass(frozen=True)
class Result:
    """How a case ended, and all that was told of it."""

    number: int
    kind: str
    outcome: str
    told: list[str]
    seconds: float

    def __str__(self) -> str:
        lines = "\n    ".join(self.told)
        return f"case {self.number}, {self.kind}: {self.outcome}, {self.seconds:.0f} s\n    {lines}"


def kinds() -> dict[str, Crash]:
    """Those that this machine can do."""
    left_out = set() if crash_disk.can_mount() else {"full disk"}
    return {name: crash for name, crash in KINDS.items() if name not in left_out}


def run_case(pair: Pair, seed: int, number: int, folder: Path) -> Result:
    """One case, its kind taken in turn, all else drawn by its seed."""
    names = sorted(kinds())
    name, random = names[number % len(names)], Random(f"{seed}/{number}")
    scene = Scene(random, random.choice(pair), folder / f"case_{number}")
    began = time.monotonic()
    try:
        outcome = kinds()[name](scene)
    except Judged as judged:
        outcome = judged.kind
        scene.tell(judged.note)
    except Exception:  # noqa: BLE001 (a case that fails in the harness must not end all others)
        outcome = "harness failed"
        scene.tell(traceback.format_exc())
    shutil.rmtree(scene.folder, ignore_errors=True)
    return Result(number, name, outcome, scene.told, time.monotonic() - began)


def prepare(folder: Path) -> Pair:
    """The undisturbed runs, without token rows and with them."""
    library = compile_library(folder)
    plain, tokens = (
        run_undisturbed(folder / name, library, name == "tokens") for name in ("plain", "tokens")
    )
    return plain, tokens


def run_all(
    pair: Pair, seed: int, numbers: Iterable[int], folder: Path, jobs: int
) -> Iterator[Result]:
    """The results of these cases, as they come."""
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(run_case, pair, seed, number, folder) for number in numbers]
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
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=arguments.folder))
    try:
        results = list(report(arguments, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(results))
    bad = sum(result.outcome not in GOOD for result in results)
    took = time.monotonic() - began
    print(f"{len(results)} cases of seed {arguments.seed}: {bad} ended badly; {took:,.0f} s")
    return 1 if bad else 0


def report(arguments: argparse.Namespace, folder: Path) -> Iterator[Result]:
    """Run what is asked for; print what ended badly as soon as it is known."""
    numbers = arguments.only or range(arguments.count)
    for result in run_all(prepare(folder), arguments.seed, numbers, folder, arguments.jobs):
        if result.outcome not in GOOD or arguments.only or arguments.verbose:
            print(result, flush=True)
        yield result


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="cases at stage level")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", type=int, nargs="+", help="run these cases alone, and tell all")
    parser.add_argument("--verbose", action="store_true", help="tell of every case")
    parser.add_argument("--folder", help="where the trees are made, and removed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
