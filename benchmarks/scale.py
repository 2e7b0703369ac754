"""What more shards cost: the plan, the split, the merge, the files kept, for the same sequences.

The plan is `snakemake -n` from its start to its end; split and merge are timed without their
start-up, on rows drawn at random, and read from the page cache. Each is a fresh process.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import index_and_merge
import machine
import processes

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "workflow/scripts"
HEADER = (
    "| shards | plan, s | MB | split, s | merge, s | MB | files |\n|---|---|---|---|---|---|---|"
)


def run_split(folder: Path, shards: int) -> Callable[[], object]:
    from seqembed.index.split import split_index
    from seqembed.models.encoders.tokenization import ResidueTokenizer
    from seqembed.models.vocabularies import ESM
    from seqembed.settings.lengths import LengthPolicy

    paths = [folder / f"index/shard_{rank}.parquet" for rank in range(shards)]
    policy = LengthPolicy(long_sequences="full", max_length=0)
    index, residues = folder / "index.parquet", folder / "residues.bin"
    options = {"tokenizer": ResidueTokenizer(ESM), "policy": policy, "unit": "residues"}
    return lambda: split_index(index, residues, paths, **options)


def make_shards(folder: Path, shards: int) -> Callable[[], object]:
    return lambda: [make_shard(folder, rank, shards) for rank in range(shards)]


def make_shard(folder: Path, rank: int, shards: int) -> None:
    """Random rows for the sequences that the split gave to this rank, in input order."""
    import numpy as np

    from seqembed.index.reader import read_shard_index

    part = read_shard_index(folder / f"index/shard_{rank}.parquet")
    order = np.argsort(part.rows)
    index_and_merge.write_shard(folder, rank, shards, part.lengths[order], part.digests[order])


def run_merge(folder: Path, shards: int) -> Callable[[], object]:
    from seqembed.checkpoints.merge import merge

    paths = [folder / f"shards/shard_{rank}.h5" for rank in range(shards)]
    output, logger = folder / "embeddings.h5", logging.getLogger()
    return lambda: merge(folder / "index.parquet", paths, output, logger)


STEPS = {"split": run_split, "make": make_shards, "merge": run_merge}


def child(folder: Path, *command: str) -> processes.Ended:
    variables = processes.environment(machine.cores(), {"PYTHONPATH": str(LIBRARY)})
    return processes.run([sys.executable, *command], folder, variables)


def time_step(step: str, folder: Path, shards: int) -> tuple[float, float]:
    """Seconds of a step, and its peak in MB."""
    ended = child(folder, __file__, "--in", str(folder), "--run", step, "--shards", str(shards))
    return float(ended.stdout.splitlines()[-1]), ended.peak_mb


def time_plan(folder: Path, shards: int) -> tuple[float, float]:
    """Seconds of a dry run of a dataset, nothing of which is there, and its peak in MB."""
    dataset = {"fasta": str(folder / "input.fasta"), "model": "demo", "shards": shards}
    given = {
        "datasets": {"work": dataset},
        "models": {"demo": str(ROOT / "resources/models/esm2_demo")},
    }
    config = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    place = folder / "plan"
    place.mkdir(exist_ok=True)
    where = ("--snakefile", str(ROOT / "Snakefile"), "--directory", str(place))
    begin = time.perf_counter()
    ended = child(
        folder, "-m", "snakemake", "-n", "--cores=1", "--quiet", *where, "--config", *config
    )
    return time.perf_counter() - begin, ended.peak_mb


def measure(folder: Path, shards: int, rounds: int) -> dict[str, Any]:
    plans = [time_plan(folder, shards) for _ in range(rounds)]
    split, merged = [], []
    for _ in range(rounds):
        shutil.rmtree(folder / "index", ignore_errors=True)
        split.append(time_step("split", folder, shards))
    shutil.rmtree(folder / "shards", ignore_errors=True)
    time_step("make", folder, shards)
    for _ in range(rounds):
        for path in (folder / "embeddings.h5", *folder.glob("store/*")):
            path.unlink(missing_ok=True)
        time.sleep(index_and_merge.SETTLE)
        merged.append(time_step("merge", folder, shards))
    # In a run, the shards are removed after the merge.
    kept = sum(1 for _ in (folder / "index").iterdir())
    return {"shards": shards, "plan": plans, "split": split, "merge": merged, "files": kept}


def render(found: dict[str, Any]) -> str:
    (plan, planned), (split, _), (merge, merged) = (
        tuple(map(median, zip(*found[step], strict=True))) for step in ("plan", "split", "merge")
    )
    times = f"{plan:.1f} | {planned:.0f} | {split:.2f} | {merge:.2f} | {merged:.0f}"
    return f"| {found['shards']:,} | {times} | {found['files']:,} |"


def parse() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 4, 64, 1000])
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--folder", type=Path, help="for its files; a temporary one if left out")
    for name in ("in", "run"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = vars(parse())
    if step := arguments["run"]:
        work = STEPS[step](Path(arguments["in"]), arguments["shards"][0])
        begin = time.perf_counter()
        work()
        print(time.perf_counter() - begin)
        return
    with tempfile.TemporaryDirectory(dir=arguments["folder"]) as name:
        folder = Path(name)
        count = str(arguments["records"])
        index_and_merge.child(folder, "--make", "index", "--count", count)
        index_and_merge.child(folder, "--run", "write_index")
        print(HEADER)
        for shards in arguments["shards"]:
            print(render(measure(folder, shards, arguments["rounds"])), flush=True)


if __name__ == "__main__":
    main()
