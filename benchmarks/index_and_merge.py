"""Our index against pyfastx's of the same FASTA file, and our merge against a plain copy.

All that is read lies in the page cache; what an earlier run wrote is removed some seconds before.
Each run is a fresh process, in turn with its rival, and timed without its start.
The copy reads all rows of the shards by h5py, a block at a time, and writes them one after the
other to a new file, which it syncs; the merge checks each byte before and after, puts the rows in
the index's order, and writes ids, lengths, digests and flags beside them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import machine
import processes
from inputs import LETTERS, SEED, random_lengths

LIBRARY = Path(__file__).resolve().parents[1] / "workflow/scripts"
LINE, WIDTH, SHARDS = 60, 640, 4
ROW_BYTES = 4 * WIDTH
BLOCK_ROWS = (64 << 20) // ROW_BYTES
READ_BYTES = 1 << 20
# A virtual machine gives freed memory back to its host within seconds, and gets it again slowly:
# who writes right after the removal of the last output would be spared what others pay.
SETTLE = 6.0  # seconds
RACES = {"index": ("write_index", "pyfastx"), "merge": ("merge", "plain_copy")}
RESULTS = ("index.parquet", "residues.bin", "input.fasta.fxi", "store", "embeddings.h5", "copy.h5")


def write_fasta(folder: Path, count: int) -> None:
    """Proteins of log-normal lengths under headers like UniProt's, 60 letters a line."""
    choice = random.Random(SEED)
    lengths = random_lengths(choice, "protein")
    letters = "".join(choice.choices(LETTERS["protein"], k=1 << 20))
    with open(folder / "input.fasta", "w", encoding="ascii") as file:
        for number in range(count):
            length = next(lengths)
            begin = choice.randrange(len(letters) - length)
            name = f"tr|A0A{number:07X}|A0A{number:07X}_ECOLX Uncharacterized protein"
            file.write(f">{name} OS=Escherichia coli OX=562 GN=b{number} PE=4 SV=1\n")
            for start in range(begin, begin + length, LINE):
                file.write(letters[start : min(start + LINE, begin + length)] + "\n")


def write_shards(folder: Path, count: int) -> None:
    """An index, and `count` rows in shards that its sequences are spread over at random."""
    import numpy as np

    from seqembed.index.reader import read_lengths_and_digests
    from seqembed.storage.digests import first_rows

    write_fasta(folder, count)
    index = folder / "merge.parquet"
    start_index(folder, index.name)()
    lengths, digests = read_lengths_and_digests(index)
    # Of equal sequences, shards hold one.
    distinct = np.flatnonzero(first_rows(digests) == np.arange(count))
    owners = np.random.default_rng(SEED).integers(SHARDS, size=len(distinct))
    for rank in range(SHARDS):
        mine = distinct[owners == rank]
        write_shard(folder, rank, SHARDS, lengths[mine], digests[mine])


def write_shard(folder: Path, rank: int, world_size: int, lengths: Any, digests: Any) -> None:
    """Random rows for (n,) lengths and (n, 16) digests."""
    from seqembed.results.writer import write_embeddings

    attributes = {"kind": "shard", "rank": rank, "world_size": world_size}
    write_embeddings(
        folder / f"shards/shard_{rank}.h5",
        count=len(lengths),
        width=WIDTH,
        storage="float32",
        attributes=attributes | {"recipe_fingerprint": "0" * 64},
        slabs=slabs(rank, lengths, digests),
    )


def slabs(rank: int, lengths: Any, digests: Any) -> Iterator[Any]:
    """Random rows of one shard for its (n,) lengths and (n, 16) digests."""
    import numpy as np

    from seqembed.results.reader import slab_bounds
    from seqembed.results.writer import Slab

    choice = np.random.default_rng([SEED, rank])
    for start, stop in slab_bounds(len(lengths), WIDTH):
        yield Slab(
            sequence_ids=[f"s{number}" for number in range(start, stop)],
            lengths=lengths[start:stop],
            digests=digests[start:stop],
            flags=np.zeros(stop - start, np.uint8),
            embeddings=choice.random((stop - start, WIDTH), np.float32),
        )


def start_index(folder: Path, name: str = "index.parquet") -> Callable[[], object]:
    from seqembed.checks.residues import ResidueCheck
    from seqembed.index.writer import write_index
    from seqembed.models.vocabularies import ESM

    check = ResidueCheck(ESM.letters, "protein", "error", gaps="error", suspicious="error")
    files, index, residues = [folder / "input.fasta"], folder / name, folder / "residues.bin"
    return lambda: write_index(files, index, residues, "header", check)


def start_pyfastx(folder: Path) -> Callable[[], object]:
    import pyfastx

    return lambda: pyfastx.Fasta(str(folder / "input.fasta"))


def start_merge(folder: Path) -> Callable[[], object]:
    from seqembed.checkpoints.merge import merge

    logger, index, output = logging.getLogger(), folder / "merge.parquet", folder / "embeddings.h5"
    return lambda: merge(index, shard_paths(folder), output, logger)


def start_copy(folder: Path) -> Callable[[], object]:
    return plain_copy(shard_paths(folder), folder / "copy.h5")


def plain_copy(sources: Sequence[Path], target: Path) -> Callable[[], object]:
    """Return what copies the rows of HDF5 files into one, by h5py alone, and syncs it."""
    import h5py

    def copy() -> None:
        files = [h5py.File(path, "r", locking=False) for path in sources]
        total = sum(len(file["embeddings"]) for file in files)
        with h5py.File(target, "w") as new:
            rows, done = new.create_dataset("embeddings", (total, WIDTH), "float32"), 0
            for part in (file["embeddings"] for file in files):
                for start in range(0, len(part), BLOCK_ROWS):
                    block = part[start : start + BLOCK_ROWS]
                    rows[done : done + len(block)] = block
                    done += len(block)
        with open(target, "rb") as file:
            os.fsync(file.fileno())

    return copy


STARTERS = (start_index, start_pyfastx, start_merge, start_copy)
RUNNERS = dict(zip((*RACES["index"], *RACES["merge"]), STARTERS, strict=True))
MAKERS = {"index": write_fasta, "merge": write_shards}


def shard_paths(folder: Path) -> list[Path]:
    return [folder / f"shards/shard_{rank}.h5" for rank in range(SHARDS)]


def child(folder: Path, *words: str) -> processes.Ended:
    """Run a part of this program in a process of its own: what it makes takes none of our memory,
    which the peak of a later one would begin with."""
    variables = processes.environment(machine.cores(), {"PYTHONPATH": str(LIBRARY)})
    return processes.run([sys.executable, __file__, "--in", str(folder), *words], folder, variables)


def time_once(name: str, folder: Path) -> dict[str, Any]:
    """Seconds of a run and the peak in MB of its memory, pages of mapped files included."""
    for path in (folder / result for result in RESULTS):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    for path in [folder / "input.fasta", folder / "merge.parquet", *shard_paths(folder)]:
        if path.exists():
            read_through(path)
    os.sync()
    time.sleep(SETTLE)
    ended = child(folder, "--run", name)
    return {"name": name, "seconds": float(ended.stdout), "peak_mb": ended.peak_mb}


def read_through(path: Path) -> None:
    """Have the file in the page cache."""
    buffer = bytearray(READ_BYTES)
    with path.open("rb") as file:
        while file.readinto(buffer):
            pass


def race(kind: str, count: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """The runs of both rivals, in turn, each round beginning with the other one."""
    child(folder, "--make", kind, "--count", str(count))
    runs = []
    for number in range(rounds):
        for name in RACES[kind][:: -1 if number % 2 else 1]:
            load = os.getloadavg()[0]
            runs.append(time_once(name, folder) | {"round": number, "load": load})
            print(f"{name}: {runs[-1]['seconds']:.2f} s", file=sys.stderr)
    return runs


def render(runs: Sequence[dict[str, Any]], names: Sequence[str], amount: str) -> str:
    """A line for each rival, and the speed of the first in shares of the other's."""
    seconds = {name: [run["seconds"] for run in runs if run["name"] == name] for name in names}
    lines = [f"{amount}; load average up to {max(run['load'] for run in runs):.1f}"]
    for name, found in seconds.items():
        peak = max(run["peak_mb"] for run in runs if run["name"] == name)
        told = f"{min(found):6.2f} {median(found):6.2f} {max(found):6.2f}"
        lines.append(f"{name:12} s: min, median, max {told}; peak {peak:,.0f} MB")
    ours, other = map(median, seconds.values())
    return "\n".join([*lines, f"{names[0]} has {other / ours:.2f} of the speed of {names[1]}"])


def parse() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=RACES, help="one of both races")
    parser.add_argument("--records", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--gigabytes", type=float, default=2, help="of rows (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--folder", type=Path, help="for its files; a temporary one if left out")
    parser.add_argument("--json", type=Path, help="gets all runs")
    for name in ("in", "run", "make", "count"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = vars(parse())
    if arguments["make"]:
        MAKERS[arguments["make"]](Path(arguments["in"]), int(arguments["count"]))
    elif arguments["run"]:
        work = RUNNERS[arguments["run"]](Path(arguments["in"]))
        begin = time.perf_counter()
        work()
        print(time.perf_counter() - begin)
    else:
        run_races(arguments)


def run_races(arguments: dict[str, Any]) -> None:
    rows = round(arguments["gigabytes"] * 1e9 / ROW_BYTES)
    counts = {"index": arguments["records"], "merge": rows}
    runs: dict[str, Any] = {}
    for kind in [arguments["only"]] if arguments["only"] else RACES:
        with tempfile.TemporaryDirectory(dir=arguments["folder"]) as name:
            runs[kind] = race(kind, counts[kind], arguments["rounds"], Path(name))
        print(render(runs[kind], RACES[kind], f"{kind}: {counts[kind]:,} sequences"))
    if arguments["json"]:
        told = {"command": shlex.join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d")}
        told |= {"machine": machine.describe_machine(), "counts": counts, "runs": runs}
        arguments["json"].parent.mkdir(parents=True, exist_ok=True)
        arguments["json"].write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
