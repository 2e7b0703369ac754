"""The most disk that a run takes under results/, in multiples of its embeddings.h5.

Runs the workflow on the CPU, over random proteins and a random ESM-2 of one layer: pooled rows, and
token rows too; from nothing, and killed half way and run again. Hard links count once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from make_model import make_esm2
from shapes import Shape

CHECKOUT = Path(__file__).resolve().parents[1]
SEED = 20260801
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
LENGTHS = 20, 60
SHAPE = Shape("esm2", layers=1, width=1280, heads=20, ffn_width=640)
EVERY = 0.02  # seconds


def used_bytes(folder: Path) -> int:
    """The bytes of the blocks of all files below a folder, each inode once."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                stat = os.lstat(f"{place}/{name}")
                found[stat.st_ino] = stat.st_blocks * 512
    return sum(found.values())


def watch(command: list[str], results: Path, stop: Callable[[], bool]) -> int:
    """Run a command, killed with all that it started once `stop` holds; return the most bytes."""
    peak = 0
    with subprocess.Popen(command, stdout=sys.stderr, start_new_session=True) as run:
        while run.poll() is None:
            peak = max(peak, used_bytes(results))
            if stop():
                os.killpg(run.pid, signal.SIGKILL)
                return peak
            time.sleep(EVERY)
    if run.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return peak


def write_project(folder: Path, model: Path, count: int, shards: int, per_residue: bool) -> None:
    """Write a FASTA file of random proteins, and the configuration."""
    draw = random.Random(SEED)
    with (folder / "input.fasta").open("w") as file:
        for number in range(count):
            residues = draw.choices(LETTERS, k=draw.randint(*LENGTHS))
            file.write(f">p{number}\n{''.join(residues)}\n")
    config = {
        "datasets": {"measured": {"fasta": "input.fasta", "model": "measured"}},
        "models": {"measured": str(model.resolve())},
        "embedding": {"per_residue": per_residue},
        "device": "cpu",
        "shards": shards,
        "execution": {"checkpoint": {"sequences": max(1, count // 50), "seconds": 300}},
    }
    (folder / "config.json").write_text(json.dumps(config))


def measure(model: Path, count: int, shards: int, *, per_residue: bool, killed: bool) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder, model, count, shards, per_residue)
        results = folder / "results/measured"
        command = [sys.executable, "-m", "snakemake", f"--cores={shards}", f"--directory={folder}"]
        command += [f"--snakefile={CHECKOUT / 'Snakefile'}"]
        command += [f"--configfile={folder / 'config.json'}", "--quiet=all"]
        peak = 0
        if killed:
            half = 25

            def is_half_done() -> bool:
                return len(list(results.glob("checkpoints/*/*/batch_*"))) >= half

            peak = watch(command, results, is_half_done)
            subprocess.run([*command, "--unlock"], check=True, stdout=sys.stderr)
        peak = max(peak, watch(command, results, lambda: False))
        result = used_bytes_of(results / "embeddings.h5")
        after = used_bytes(results)
        rows = "token rows" if per_residue else "rows"
        how = "killed, run again" if killed else "from nothing"
        shown = f"{result / 1e6:,.0f} | {peak / result:.2f} | {after / result:.2f}"
        return f"| {rows} | {how} | {shown} |"


def used_bytes_of(path: Path) -> int:
    return path.stat().st_blocks * 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=8000, help="sequences; a tenth for token rows")
    parser.add_argument("--shards", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        import torch

        torch.manual_seed(SEED)
        model = Path(name) / "model"
        make_esm2(model, SHAPE, "cpu", torch.float32)
        print("| | | result, MB | peak | after |\n|---|---|---|---|---|")
        for per_residue in (False, True):
            count = arguments.count // 10 if per_residue else arguments.count
            for killed in (False, True):
                options = {"per_residue": per_residue, "killed": killed}
                print(measure(model, count, arguments.shards, **options), flush=True)


if __name__ == "__main__":
    main()
