"""Rows of an earlier result: looking them up and copying them, against a plain copy by h5py.

A dataset of which the earlier result has all rows, in another order, goes through what split, the
workers and the merge do for it: the result's checksum is verified, the digests are looked up, the
shards are written, and the rows are verified once more and written in the dataset's order, with all
other columns. The rival copies the rows alone, a block at a time, and syncs the file. What is read
lies in the page cache. Each run is a fresh process, in turn with its rival, and timed without its
start.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import processes
from index_and_merge import (
    LIBRARY,
    SETTLE,
    WIDTH,
    plain_copy,
    read_through,
    render,
    slabs,
    start_index,
    write_fasta,
)

SHARDS = 4
NAMES = ("reuse", "plain_copy")
SETTINGS = {
    "layer": "last",
    "pooling": "mean",
    "per_residue": False,
    "precision": "fp32",
    "storage": "float32",
    "long_sequences": "full",
    "max_length": "auto",
}
# In each of these folders a run writes.
OUTPUTS = (
    "results/new/store",
    "results/new/checkpoints",
    "results/new/shards",
    "results/new/recipes",
)


def describe_model(folder: Path) -> Path:
    """Write the description of a model without weights; return its path."""
    from seqembed.models.architectures import Esm2Architecture
    from seqembed.models.prepared import PreparedModel, write_prepared

    sizes = Esm2Architecture(layers=1, width=WIDTH, heads=2, ffn_width=32)
    facts = {"source": "none", "weights": "none", "size": 1, "sha256": "ab" * 32}
    model = PreparedModel(
        name="m", family="esm2", architecture=sizes, tokenizer="esm2", max_length=1022, **facts
    )
    write_prepared(model, folder / "m.json")
    return folder / "m.json"


def make_finder(folder: Path) -> Any:
    from seqembed.checkpoints.find_sources import SourceFinder
    from seqembed.models.prepared import read_prepared
    from seqembed.settings.request import Request

    request, model = Request(**SETTINGS), read_prepared(folder / "m.json")
    earlier = [folder / "earlier.h5"]
    logger = logging.getLogger()
    return SourceFinder(folder / "results/new", request, model, "cpu", [], earlier, logger)


def make(folder: Path, count: int) -> None:
    """Write the earlier result, and the index of the new dataset and of its shards."""
    from dataclasses import replace

    import numpy as np

    from seqembed.index.reader import read_lengths_and_digests
    from seqembed.index.split import split_index
    from seqembed.models.prepared import load_tokenizer, read_prepared
    from seqembed.settings.lengths import LengthPolicy
    from seqembed.settings.recipe import Recipe, resolve_fields
    from seqembed.settings.request import Request
    from seqembed.storage.digests import first_rows

    results = folder / "results/new"
    results.mkdir(parents=True)
    write_fasta(folder, count)
    start_index(folder)()
    (folder / "index.parquet").rename(results / "index.parquet")
    model = read_prepared(describe_model(folder))
    lengths, digests = read_lengths_and_digests(results / "index.parquet")
    distinct = np.flatnonzero(first_rows(digests) == np.arange(count))
    order = np.random.default_rng(1).permutation(distinct)
    recipe = Recipe(**resolve_fields(Request(**SETTINGS), model))
    write_result(folder / "earlier.h5", recipe, lengths[order], digests[order])
    policy = LengthPolicy(long_sequences="full", max_length=0, specials=model.facts.specials)
    split_index(
        results / "index.parquet",
        folder / "residues.bin",
        [results / f"index/shard_{rank}.parquet" for rank in range(SHARDS)],
        tokenizer=load_tokenizer(model),
        policy=replace(policy),
        unit="residues",
        find=make_finder(folder).find,
    )


def write_result(path: Path, recipe: Any, lengths: Any, digests: Any) -> None:
    from seqembed.results.writer import write_embeddings

    attributes = {"kind": "embeddings", "recipe_fingerprint": recipe.fingerprint}
    write_embeddings(
        path,
        count=len(lengths),
        width=WIDTH,
        storage="float32",
        attributes=attributes | recipe.fields(),
        slabs=slabs(0, lengths, digests),
    )


def start_reuse(folder: Path) -> Callable[[], object]:
    import numpy as np

    from seqembed.checkpoints.merge import merge
    from seqembed.index.reader import read_lengths_and_digests
    from seqembed.storage.digests import first_rows
    from seqembed.worker.without_device import finish_without_device

    results, logger = folder / "results/new", logging.getLogger()
    config = {"model": str(folder / "m.json"), "embedding": SETTINGS, "device": "cpu"}
    config |= {"token_budget": "auto", "threads": 1, "force_restart": False}
    finder = make_finder(folder)

    def reuse() -> None:
        _, digests = read_lengths_and_digests(results / "index.parquet")
        finder.find(digests[first_rows(digests) == np.arange(len(digests))])
        paths = []
        for rank in range(SHARDS):
            shard = results / f"index/shard_{rank}.parquet"
            output = results / "shards"
            status = finish_without_device(rank, shard, output, config, lambda: None, logger)
            assert status and status["computed"] == 0
            paths.append(Path(status["shard_path"]))
        merge(results / "index.parquet", paths, results / "embeddings.h5", logger)

    return reuse


def start_copy(folder: Path) -> Callable[[], object]:
    return plain_copy([folder / "earlier.h5"], folder / "copy.h5")


def child(folder: Path, *words: str) -> processes.Ended:
    variables = processes.environment(machine.cores(), {"PYTHONPATH": str(LIBRARY)})
    return processes.run([sys.executable, __file__, "--in", str(folder), *words], folder, variables)


def time_once(name: str, folder: Path) -> dict[str, Any]:
    """Seconds of a run and the peak in MB of its memory, pages of mapped files included."""
    for path in OUTPUTS:
        shutil.rmtree(folder / path, ignore_errors=True)
    for path in ("copy.h5", "results/new/embeddings.h5"):
        (folder / path).unlink(missing_ok=True)
    read_through(folder / "earlier.h5")
    os.sync()
    time.sleep(SETTLE)
    ended = child(folder, "--run", name)
    return {"name": name, "seconds": float(ended.stdout), "peak_mb": ended.peak_mb}


def race(folder: Path, count: int, rounds: int) -> list[dict[str, Any]]:
    child(folder, "--make", str(count))
    runs = []
    for number in range(rounds):
        for name in NAMES[:: -1 if number % 2 else 1]:
            load = os.getloadavg()[0]
            runs.append(time_once(name, folder) | {"round": number, "load": load})
            print(f"{name}: {runs[-1]['seconds']:.2f} s", file=sys.stderr)
    return runs


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--folder", type=Path, help="for its files; a temporary one if left out")
    parser.add_argument("--json", type=Path, help="gets all runs")
    for name in ("in", "run", "make"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    if arguments["make"]:
        make(Path(arguments["in"]), int(arguments["make"]))
    elif arguments["run"]:
        work = {"reuse": start_reuse, "plain_copy": start_copy}[arguments["run"]]
        work_now = work(Path(arguments["in"]))
        begin = time.perf_counter()
        work_now()
        print(time.perf_counter() - begin)
    else:
        with tempfile.TemporaryDirectory(dir=arguments["folder"]) as name:
            runs = race(Path(name), arguments["rows"], arguments["rounds"])
        print(render(runs, NAMES, f"{arguments['rows']:,} sequences of {WIDTH} values"))
        if arguments["json"]:
            arguments["json"].write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
