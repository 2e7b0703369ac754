"""The anonymous memory that each stage takes at its peak, for a FASTA file and for variants of it.

A variant has one residue of each sequence changed. What is not given back to the system counts,
files that are mapped do not. Runs the workflow with one shard on the CPU, token rows kept.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import psutil

from seqembed.fasta.reader import read_batches

CHECKOUT = Path(__file__).resolve().parents[1]
STAGES = ("prepare_model", "index", "split", "embed_shard", "merge")
LETTERS = b"ACDEFGHIKLMNPQRSTVWY"
SEED = 20260801
EVERY = 0.02  # seconds


def variants(fasta: Path, count: int) -> Iterator[bytes]:
    """`count` records of each sequence of a file; of one, the sequence itself."""
    choice = random.Random(SEED)
    for record in chain.from_iterable(read_batches(fasta)):
        for number in range(count):
            residues = bytearray(record.residues)
            if count > 1:
                residues[choice.randrange(len(residues))] = choice.choice(LETTERS)
            yield b">%s_%d\n%s\n" % (record.sequence_id.encode(), number, residues)


def stage_of(process: psutil.Process) -> str | None:
    """The entry program that a process is or was started by."""
    for each in [process, *process.parents()]:
        for word in each.cmdline():
            if Path(word).suffix == ".py" and Path(word).stem in STAGES:
                return Path(word).stem
    return None


def anonymous_mb(process: psutil.Process) -> float:
    """RssAnon of /proc/PID/status, in MB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1000


def watch(command: list[str]) -> dict[str, float]:
    """Run a command to its good end; the most that one process of each stage held, in MB."""
    peaks = dict.fromkeys(STAGES, 0.0)
    with subprocess.Popen(command, stdout=sys.stderr) as run:
        while run.poll() is None:
            for process in psutil.Process(run.pid).children(recursive=True):
                try:
                    if stage := stage_of(process):
                        peaks[stage] = max(peaks[stage], anonymous_mb(process))
                except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
                    continue
            time.sleep(EVERY)
    if run.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return peaks


def measure(fasta: Path, count: int, model: Path) -> dict[str, float]:
    """The peaks of a run over `count` variants of each sequence."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "input.fasta").write_bytes(b"".join(variants(fasta, count)))
        config = {
            "datasets": {"measured": {"fasta": "input.fasta", "model": "measured"}},
            "models": {"measured": str(model.resolve())},
            "embedding": {"per_residue": True},
            "device": "cpu",
            "shards": 1,
        }
        (folder / "config.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "snakemake", "--cores=1", f"--directory={folder}"]
        command += [f"--snakefile={CHECKOUT / 'Snakefile'}"]
        return watch([*command, f"--configfile={folder / 'config.json'}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--model", type=Path, default=CHECKOUT / "resources/models/esm2_demo")
    parser.add_argument("--variants", type=int, nargs="+", default=[1, 10], metavar="N")
    arguments = parser.parse_args()
    runs = {n: measure(arguments.fasta, n, arguments.model) for n in arguments.variants}
    first = runs[arguments.variants[0]]
    for stage in STAGES:
        peaks = [runs[n][stage] for n in arguments.variants]
        shown = "  ".join(f"{peak:6.0f} MB ({peak / first[stage]:.2f})" for peak in peaks)
        print(f"{stage:14} {shown}")


if __name__ == "__main__":
    main()
