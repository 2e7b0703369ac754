"""Each export of a result, against a plain copy of the result.

The rows are random, of a normal distribution. The copy reads all rows by h5py, a block at a time,
writes them to a new file, and syncs it; an export checks the result, writes, and reads back what it
wrote. What is read lies in the page cache. Each run is a fresh process, in turn with the others,
and timed without its start.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
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
from index_and_merge import (
    LIBRARY,
    SEED,
    SETTLE,
    WIDTH,
    plain_copy,
    read_through,
    start_index,
    write_fasta,
)

COPY = "plain_copy"
EXPORTS = ("embeddings.parquet", "embeddings.npy", "embeddings.h5ad", "uniprot.h5")


def make(folder: Path, count: int) -> None:
    """Write an index, a result of its sequences, and a table of annotations."""
    import numpy as np

    from seqembed.index.parquet import read_columns, read_metadata
    from seqembed.index.reader import read_lengths_and_digests
    from seqembed.results.writer import write_embeddings

    write_fasta(folder, count)
    start_index(folder)()
    index = folder / "index.parquet"
    ids = read_columns(index, ["sequence_id"])["sequence_id"].to_pylist()
    with (folder / "table.tsv").open("w") as table:
        table.write("id\tkind\tscore\n")
        table.writelines(f"{name}\tkind {n % 50}\t{n / 7}\n" for n, name in enumerate(ids))
    lengths, digests = read_lengths_and_digests(index)
    write_embeddings(
        folder / "embeddings.h5",
        count=count,
        width=WIDTH,
        storage="float32",
        attributes={
            "kind": "embeddings",
            "model": "random",
            "index_fingerprint": read_metadata(index, "index")["fingerprint"],
        },
        slabs=slabs(ids, lengths, digests, np.random.default_rng(SEED)),
    )


def slabs(ids: Sequence[str], lengths: Any, digests: Any, choice: Any) -> Iterator[Any]:
    """Random rows for n ids, their (n,) lengths and (n, 16) digests."""
    import numpy as np

    from seqembed.results.reader import slab_bounds
    from seqembed.results.writer import Slab

    for start, stop in slab_bounds(len(ids), WIDTH):
        yield Slab(
            sequence_ids=ids[start:stop],
            lengths=lengths[start:stop],
            digests=digests[start:stop],
            flags=np.zeros(stop - start, np.uint8),
            embeddings=choice.standard_normal((stop - start, WIDTH), np.float32),
        )


def start_export(folder: Path, name: str) -> Callable[[], object]:
    from seqembed.export.export import export

    output, logger = folder / "export" / name, logging.getLogger()
    others = {"index": folder / "index.parquet", "annotations": str(folder / "table.tsv")}
    return lambda: export(folder / "embeddings.h5", output, "float32", logger, **others)


def start_copy(folder: Path) -> Callable[[], object]:
    return plain_copy([folder / "embeddings.h5"], folder / "export/copy.h5")


def child(folder: Path, *words: str) -> processes.Ended:
    variables = processes.environment(machine.cores(), {"PYTHONPATH": str(LIBRARY)})
    return processes.run([sys.executable, __file__, "--in", str(folder), *words], folder, variables)


def time_once(name: str, folder: Path) -> dict[str, Any]:
    """Seconds of a run and of its threads, the peak in MB of its memory, the GB that it wrote."""
    shutil.rmtree(folder / "export", ignore_errors=True)
    (folder / "export").mkdir()
    read_through(folder / "embeddings.h5")
    os.sync()
    time.sleep(SETTLE)
    ended = child(folder, "--run", name)
    seconds, busy = map(float, ended.stdout.split())
    size = sum(path.stat().st_size for path in (folder / "export").iterdir())
    return {
        "name": name,
        "seconds": seconds,
        "cpu_seconds": busy,
        "peak_mb": ended.peak_mb,
        "gigabytes": size / 1e9,
    }


def race(folder: Path, count: int, names: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    child(folder, "--make", str(count))
    runs = []
    for number in range(rounds):
        for name in names[:: -1 if number % 2 else 1]:
            load = os.getloadavg()[0]
            runs.append(time_once(name, folder) | {"round": number, "load": load})
            print(f"{name}: {runs[-1]['seconds']:.2f} s", file=sys.stderr)
    return runs


def render(runs: Sequence[dict[str, Any]], names: Sequence[str], count: int) -> str:
    """A line for each export, with the median of its time in multiples of the copy's."""
    load = max(run["load"] for run in runs)
    lines = [f"{count:,} rows of {WIDTH} values; load average up to {load:.1f}"]
    grouped = {name: [run for run in runs if run["name"] == name] for name in names}
    seconds = {name: median(run["seconds"] for run in found) for name, found in grouped.items()}
    for name, found in grouped.items():
        peak = max(run["peak_mb"] for run in found)
        busy = median(run["cpu_seconds"] for run in found)
        times = f"{seconds[name]:7.2f} s, {seconds[name] / seconds[COPY]:5.2f} x the copy"
        times += f", {busy:.2f} s of CPU"
        lines.append(f"{name:19} {times}; {found[0]['gigabytes']:.2f} GB; peak {peak:,.0f} MB")
    return "\n".join(lines)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--only", nargs="+", choices=EXPORTS, default=EXPORTS)
    parser.add_argument("--folder", type=Path, help="for its files; a temporary one if left out")
    parser.add_argument("--json", type=Path, help="gets all runs")
    for name in ("in", "run", "make"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    if arguments["make"]:
        make(Path(arguments["in"]), int(arguments["make"]))
    elif name := arguments["run"]:
        folder = Path(arguments["in"])
        work = start_copy(folder) if name == COPY else start_export(folder, name)
        begin = time.perf_counter(), time.process_time()
        work()
        print(time.perf_counter() - begin[0], time.process_time() - begin[1])
    else:
        names = (COPY, *arguments["only"])
        with tempfile.TemporaryDirectory(dir=arguments["folder"]) as name:
            runs = race(Path(name), arguments["rows"], names, arguments["rounds"])
        print(render(runs, names, arguments["rows"]))
        if arguments["json"]:
            arguments["json"].write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
