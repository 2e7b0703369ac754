"""How far the disk that `plan` predicts is from what a run then takes under results/.

Runs the workflow on the CPU, over random proteins and a random ESM-2 of one layer: rows, with ids
of 200 letters; rows in float16, where each sequence comes twice; token rows; and rows after a run
that was killed half way. A difference is in per cent of what the run took.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disk import CHECKOUT, LENGTHS, LETTERS, SEED, SHAPE, used_bytes, used_bytes_of, watch
from make_model import make_esm2

HALF = 25


@dataclass(frozen=True)
class Case:
    """What is embedded; count: how many ids, in multiples of the option.

    repeated: how often each sequence comes.
    """

    name: str
    count: float = 1.0
    id_letters: int = 8
    repeated: int = 1
    killed: bool = False
    embedding: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("rows, ids of 200 letters", id_letters=200),
    Case("rows in float16, each twice", count=2, repeated=2, embedding={"storage": "float16"}),
    Case("token rows", count=0.1, embedding={"per_residue": True}),
    Case("rows, killed half way", killed=True),
    Case("token rows, killed half way", 0.1, killed=True, embedding={"per_residue": True}),
)


def write_project(folder: Path, model: Path, count: int, shards: int, case: Case) -> None:
    """Write a FASTA file of random proteins, and the configuration."""
    draw = random.Random(SEED)
    with (folder / "input.fasta").open("w") as file:
        for number in range(count):
            if number % case.repeated == 0:
                residues = "".join(draw.choices(LETTERS, k=draw.randint(*LENGTHS)))
            file.write(f">{number:0{case.id_letters}}\n{residues}\n")
    config = {
        "datasets": {"measured": {"fasta": "input.fasta", "model": "measured"}},
        "models": {"measured": str(model.resolve())},
        "embedding": case.embedding,
        "device": "cpu",
        "shards": shards,
        "execution": {"checkpoint": {"sequences": max(1, count // 50), "seconds": 300}},
    }
    (folder / "config.json").write_text(json.dumps(config))


def measure(model: Path, count: int, shards: int, case: Case) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder, model, int(count * case.count), shards, case)
        results = folder / "results/measured"
        command = [sys.executable, "-m", "snakemake", f"--cores={shards}", f"--directory={folder}"]
        command += [f"--snakefile={CHECKOUT / 'Snakefile'}"]
        command += [f"--configfile={folder / 'config.json'}", "--quiet=all"]
        if case.killed:
            watch(command, results, lambda: len(list(results.glob("checkpoints/*/*/b*"))) >= HALF)
            subprocess.run([*command, "--unlock"], check=True, stdout=sys.stderr)
        subprocess.run([*command, "plan"], check=True, stdout=sys.stderr)
        planned = json.loads((results / "plan.json").read_text())["disk_bytes"]
        peak, end = watch(command, results, lambda: False), used_bytes(results)
        result = used_bytes_of(results / "embeddings.h5")
        pairs = (planned["result"], result), (planned["peak"], peak), (planned["end"], end)
        shown = " | ".join(f"{100 * (said / real - 1):+.2f}%" for said, real in pairs)
        return f"| {case.name} | {result / 1e6:,.0f} | {peak / 1e6:,.0f} | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=16000, help="ids; token rows take a tenth")
    parser.add_argument("--shards", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        import torch

        torch.manual_seed(SEED)
        model = Path(name) / "model"
        make_esm2(model, SHAPE, "cpu", torch.float32)
        print("| | result, MB | peak, MB | result planned | peak planned | end planned |")
        print("|---|---|---|---|---|---|", flush=True)
        for case in CASES:
            print(measure(model, arguments.count, arguments.shards, case), flush=True)


if __name__ == "__main__":
    main()
