"""Tokens a second of our worker and of its peers, side by side.

All embed the same sequences with the same random weights, on as many threads, each in a fresh
process, in turn, for some rounds; only the embedding is timed, not the start. A mean row for each
sequence is compared, too: what is not computed costs nothing. Of few sequences, sorted batches are
padded more than of many, which `fill` tells: quote a ratio from an input of hundreds.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine
import numpy as np
import processes
import table
from batching import TOKENS_A_BATCH
from contestants import EMBEDDING, Contestant, Peer, Scene, contestants, entry, fastest, program
from inputs import GENERATED, write_input
from shapes import SHAPES

DEVICES = ("cpu", "cuda")


def prepare(scene: Scene, shard_counts: set[int]) -> None:
    """Models and index shards of the input, once for all runs."""
    models = scene.folder / "models"
    make = program("make_model", shape=scene.shape_name, output=models)
    run_all(scene, [make, prepare_model(scene.folder), *index_commands(scene, shard_counts)])


def prepare_model(folder: Path) -> list[str]:
    """The command that describes the model of `folder` in its model.json."""
    source, output = folder / "models/hf", folder / "model.json"
    return entry("prepare_model", name="raced", source=source, output=output)


def index_commands(scene: Scene, shard_counts: set[int]) -> list[list[str]]:
    """The commands that index the scene's input, and split it into each of these numbers."""
    folder = scene.folder
    index, residues, model = (
        folder / name for name in ("index.parquet", "residues.bin", "model.json")
    )
    settings = json.dumps(EMBEDDING | {"precision": scene.precision})
    return [
        entry(
            "index", fasta=scene.fasta, ids="header", model=model,
            invalid_residues="unk", gaps="keep", suspicious="allow", output=index,
            residues=residues,
        ),
        *(
            entry(
                "split", index=index, residues=residues, model=model, world_size=count,
                settings=settings, device=scene.device, output_dir=scene.shards(count),
            )
            for count in shard_counts
        ),
    ]  # fmt: skip


def run_all(scene: Scene, commands: Sequence[Sequence[str]]) -> None:
    variables = processes.environment(scene.threads, {})
    for command in commands:
        processes.run(command, scene.folder, variables)


def tell(run: dict[str, Any]) -> None:
    if "tokens" in run:
        figure = f"{run['tokens'] / run['seconds']:,.0f} tokens/s"
    elif "flops_per_second" in run:
        figure = f"{run['flops_per_second'] / 1e9:,.0f} GFLOP/s"
    else:
        figure = f"{run['start']:.2f} s"
    print(f"round {run['round'] + 1}: {run['contestant']}: {figure}", file=sys.stderr)


def race(
    scene: Scene,
    field: Sequence[Contestant],
    rounds: int,
    tell: Callable[[dict[str, Any]], None] = tell,
    tell_all: Callable[[list[dict[str, Any]]], None] = lambda runs: None,
) -> list[dict[str, Any]]:
    """Every contestant once a round, each round beginning with another; the figures of all runs.

    tell: gets the figures of each run as soon as it has ended. tell_all: gets those of all runs so
    far, after each round.

    `load`: the machine's load average before it; where that is over the cores, others are at work.
    `difference`: the largest, in absolute value, between its rows and our worker's.
    """
    runs = []
    rows: dict[str, np.ndarray] = {}
    for number in range(rounds):
        turn = number * max(len(field) // rounds, 1) % len(field)
        for contestant in [*field[turn:], *field[:turn]]:
            load = os.getloadavg()[0]
            with tempfile.TemporaryDirectory(dir=scene.folder) as folder:
                figures = contestant.run(scene, Path(folder))
            if "rows" in figures:
                rows[contestant.name] = figures.pop("rows")
            runs.append({"contestant": contestant.name, "round": number, "load": load} | figures)
            tell(runs[-1])
        for run in runs:
            if run["contestant"] in rows:
                difference = rows[run["contestant"]] - rows[field[0].name]
                run["difference"] = float(np.abs(difference).max())
        tell_all(runs)
    return runs


def parse() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="t6_8M", help="(%(default)s)")
    parser.add_argument("--fasta", type=Path, help="sequences; generated where left out")
    count = "how many sequences are generated (%(default)s)"
    parser.add_argument("--generate", type=int, default=GENERATED, metavar="N", help=count)
    every = "take each n-th sequence (%(default)s)"
    parser.add_argument("--every", type=int, default=1, metavar="N", help=every)
    batches = "take N batches of the input sorted by length, as full as those of all of it"
    parser.add_argument("--batches", type=int, metavar="N", help=batches)
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="(%(default)s)")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="(%(default)s)")
    parser.add_argument("--gpus", type=int, default=1, help="for as many shards (%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contestants; all where left out")
    budgets = "tokens a batch of peers; of several, each takes the one at which it is fastest"
    parser.add_argument("--budgets", type=int, nargs="+", metavar="N", help=budgets)
    rows = "of the products whose speed is the peak; 2,048 and 4,096 where left out"
    parser.add_argument("--peak-rows", type=int, metavar="N", help=rows)
    parser.add_argument("--json", type=Path, help="gets all runs")
    return parser.parse_args()


def choose(field: Sequence[Contestant], only: Sequence[str] | None) -> list[Contestant]:
    """Those of `only`, and our worker, which all are compared with; SystemExit for other names."""
    names = [contestant.name for contestant in field]
    if unknown := set(only or ()) - set(names):
        raise SystemExit(f"no contestant is called {unknown.pop()!r}; there are: {names}")
    return [c for c in field if not only or c.name in only or c is field[0]]


def at_its_best(scene: Scene, contestant: Contestant, budgets: Sequence[int] | None) -> Contestant:
    """A peer at the one of these budgets where it is fastest; SystemExit if it runs at none."""
    if not budgets or not isinstance(contestant, Peer):
        return contestant
    if len(budgets) == 1:
        return contestant.at(budgets[0])
    with tempfile.TemporaryDirectory(dir=scene.folder) as folder:
        speeds = contestant.tune(scene, Path(folder), budgets)["budgets"]
    print(f"{contestant.name}: tokens/s at each number a batch: {speeds}", file=sys.stderr)
    best = fastest(speeds)
    if best is None:
        raise SystemExit(f"{contestant.name}: there is too little memory for each of {budgets}")
    return contestant.at(best)


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(
            folder=Path(name),
            shape_name=arguments.shape,
            threads=arguments.threads,
            device=arguments.device,
            precision=SHAPES[arguments.shape].precision(arguments.device),
        )
        everyone = contestants(scene, arguments.gpus, arguments.peak_rows)
        field = choose(everyone, arguments.only)
        sample = {"count": arguments.generate, "batches": arguments.batches}
        sample["specials"] = scene.shape.specials
        sample["budget"] = max(arguments.budgets or [TOKENS_A_BATCH])
        molecule = scene.shape.molecule
        write_input(scene.fasta, molecule, arguments.fasta, every=arguments.every, **sample)
        prepare(scene, {getattr(contestant, "shards", 1) for contestant in field})
        lengths = scene.lengths()
        field = [at_its_best(scene, each, arguments.budgets) for each in field]
        runs = race(scene, field, arguments.rounds)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe_machine(),
        "shape": arguments.shape,
        "threads": arguments.threads,
        "device": arguments.device,
        "precision": scene.precision,
        "sequences": len(lengths),
        "tokens": sum(lengths),
        "flops": SHAPES[arguments.shape].flops(lengths),
        "runs": runs,
    }
    result["summary"] = table.summarise(result)
    print(table.render(result))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
