"""The share of a worker's time that checkpoints take: serialising, writing, fsync and rename.

The worker counts both itself and says so in its log. Random weights of t12_35M's shape, one shard
on the CPU; without --model the weights are made by transformers.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
TOLD = re.compile(r"checkpoints took ([0-9.]+) of ([0-9.]+) seconds")
# The default of `execution: {checkpoint: {sequences}}`, and every so few.
INTERVALS = (10_000, 10)


def make_model(folder: Path) -> Path:
    """A Hugging Face folder of random weights in the shape of esm2_t12_35M_UR50D."""
    import torch
    from transformers import EsmConfig, EsmModel

    shutil.copytree(CHECKOUT / "tests/data/esm2_random", folder)
    shape = json.loads((folder / "config.json").read_text())
    shape |= {"num_hidden_layers": 12, "hidden_size": 480}
    shape |= {"num_attention_heads": 20, "intermediate_size": 1920}
    torch.manual_seed(1)
    EsmModel(EsmConfig(**shape), add_pooling_layer=False).save_pretrained(folder)
    return folder


def measure(fasta: Path, model: Path, sequences: int, cores: int) -> tuple[float, float]:
    """Seconds in checkpoints, and of the whole run after the model was loaded."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = {
            "datasets": {"measured": {"fasta": str(fasta.resolve()), "model": "measured"}},
            "models": {"measured": str(model.resolve())},
            "execution": {"checkpoint": {"sequences": sequences}},
            "device": "cpu",
            "shards": 1,
        }
        (folder / "config.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "snakemake", f"--cores={cores}", f"--directory={name}"]
        command += [f"--snakefile={CHECKOUT / 'Snakefile'}"]
        command += [f"--configfile={folder / 'config.json'}"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        found = TOLD.search((folder / "logs/measured/worker_0.log").read_text())
    if not found:
        raise SystemExit("the worker did not say what its checkpoints took")
    return float(found[1]), float(found[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or make_model(Path(folder) / "t12")
        for sequences in INTERVALS:
            spent, run = measure(arguments.fasta, model, sequences, arguments.cores)
            share = f"{spent:.2f} of {run:.2f} s ({100 * spent / run:.3f}%)"
            print(f"a checkpoint every {sequences:,} sequences: {share}")


if __name__ == "__main__":
    main()
