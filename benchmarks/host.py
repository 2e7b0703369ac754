"""What a worker's own Python takes for each batch, beside a model that returns at once.

Prints a JSON object of milliseconds of a processor a batch. read_and_pack: residues from the
shard's index to a packed batch. finish: all that the worker's loop does with a batch, without the
thread that runs the model. in_flight: of that, writing in_flight.json. block: writing all rows as
one checkpoint block, divided by the batches; block_wall: the same by the clock on the wall.
read_wall: the time of read_and_pack by the clock on the wall. DNABERT's tokenizer takes as many
threads as RAYON_NUM_THREADS says, 1 if it is not set, and all their time counts.
To compare two checkouts, set PYTHONPATH to the workflow/scripts of each.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import logging
import pstats
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqembed.checkpoints.checkpoint import Checkpoint
from seqembed.checks.residues import ResidueCheck
from seqembed.gpu_worker import _load_model
from seqembed.index.split import split_index
from seqembed.index.writer import write_index
from seqembed.kernels import plain
from seqembed.kernels.names import PLAIN
from seqembed.models.prepare import prepare_model
from seqembed.models.prepared import PreparedModel, load_tokenizer, read_prepared
from seqembed.settings.lengths import resolve_policy
from seqembed.worker.checkpoint_writer import CheckpointWriter
from seqembed.worker.decisions import Run, open_run
from seqembed.worker.outlets import open_outlets
from seqembed.worker.progress import Progress, measure_work

MODEL = Path(__file__).resolve().parents[1] / "resources/models/esm2_demo"
LOGGER = logging.getLogger("host")
EMBEDDING = {
    "layer": "last",
    "pooling": "mean",
    "precision": "fp32",
    "storage": "float32",
    "long_sequences": "auto",
    "max_length": "auto",
}
NO_BLOCK_IS_DUE = {"checkpoint_seq_threshold": 1 << 40, "checkpoint_time_threshold": 1e9}


class StandIn(nn.Module):
    """A model whose rows are made beforehand. width: D, 320 for t6_8M."""

    def __init__(self, longest: int, width: int) -> None:
        super().__init__()
        self.rows, self.steps, self.kernels = torch.ones(longest, width), plain, PLAIN

    def even_threads(self, rows: int, threads: int) -> int:
        return 1

    def forward(self, tokens: Tensor, packing: Any) -> Tensor:
        return self.rows[: len(tokens)]


def make_shard(folder: Path, fasta: Path, model: PreparedModel) -> Path:
    index, residues = folder / "index.parquet", folder / "residues.bin"
    tokenizer = load_tokenizer(model)
    molecule = model.facts.molecule
    check = ResidueCheck(tokenizer.letters, molecule, "unk", gaps="error", suspicious="allow")
    write_index([fasta], index, residues, "header", check)
    shard = folder / "index/shard_0.parquet"
    policy = resolve_policy("auto", "auto", model)
    split_index(index, residues, [shard], tokenizer=tokenizer, policy=policy, unit="tokens")
    return shard


def open_shard(folder: Path, shard: Path, budget: int, per_residue: bool) -> tuple[Run, dict]:
    config = {
        "model": str(folder / "model.json"),
        "embedding": EMBEDDING | {"per_residue": per_residue},
        "device": "cpu",
        "token_budget": budget,
        "threads": 1,
    }
    return open_run(shard, folder / "shards", config, LOGGER), config


class Worker:
    """The worker's loop, in the two parts that are measured."""

    def __init__(self, folder: Path, shard: Path, options: argparse.Namespace) -> None:
        self._options = options
        self._run, config = open_shard(folder, shard, options.budget, options.per_residue)
        self.rows = list(range(len(self._run.shard.rows)))
        self._manifest = self._run.manifest(None)
        self._convert = _load_model(config, torch.device("cpu"), LOGGER)[1]
        self._folder = folder / "checkpoint"
        self._folder.mkdir()
        self.tracker = self._run.open_tracker(self._folder, shard, {})

        self.batches, *self._sizes = self._run.load_batches(
            shard, self.rows, self._manifest, self._convert, self.tracker
        )

    def read(self) -> None:
        # A worker keeps no batch either.
        deque(self.batches, maxlen=0)

    def finish(self, batches: Sequence[Any]) -> CheckpointWriter:
        """Take the batches through the loop; return the writer, which waits with all rows."""
        longest = max(len(batch.tokens) for batch in batches)
        model = StandIn(longest, self._options.width)
        runner = self._run.open_runner(
            model, self.tracker, lambda: (model, None), self._manifest, 1
        )
        writer = self._run.open_writer(self._folder, NO_BLOCK_IS_DUE)
        progress = self._open_progress(writer)
        for batch in runner.run(writer.make_room(batches)):
            progress.advance(writer.add(batch), batch.tokens, batch.retried)
        return writer

    def _open_progress(self, writer: CheckpointWriter) -> Progress:
        checkpoint = Checkpoint(base=self._folder, rank=0, locked=True, logger=LOGGER)
        (self._folder / "shard_0").mkdir()
        opened = open_outlets(self._run, checkpoint, {"log_path": self._folder / "worker_0.log"})
        work = measure_work(self._run, 0, *self._sizes)
        with opened as outlets:
            return Progress(LOGGER, work, writer, self.tracker, outlets)


def timed(
    work: Callable[[], Any], clock: Callable[[], float] = time.thread_time
) -> tuple[float, Any]:
    """Seconds of a processor that this thread took, and what the work returns."""
    begin = clock()
    result = work()
    return clock() - begin, result


@contextmanager
def profiled(wanted: bool) -> Iterator[None]:
    profile = cProfile.Profile()
    if wanted:
        profile.enable()
    yield
    if wanted:
        profile.disable()
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(35)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    prepare_model("model", str(options.model), folder / "model.json", LOGGER)
    shard = make_shard(folder, options.fasta, read_prepared(folder / "model.json"))
    worker = Worker(folder, shard, options)
    with profiled(options.profile):
        read_wall, (read, _) = timed(
            lambda: timed(worker.read, time.process_time), time.perf_counter
        )
    batches = list(worker.batches)
    with profiled(options.profile):
        finish, writer = timed(partial(worker.finish, batches))
    block, _ = timed(writer.close)
    if writer.computed != len(worker.rows):
        raise SystemExit(f"only {writer.computed:,} rows were computed")
    noted, _ = timed(lambda: [worker.tracker.note_in_flight([b]) for b in batches + batches])
    count = len(batches)
    seconds = {"read_and_pack": read, "finish": finish, "in_flight": noted, "block": block}
    seconds |= {"block_wall": writer.spent, "read_wall": read_wall}
    return {
        "batches": count,
        "sequences_a_batch": round(len(worker.rows) / count, 1),
    } | {name: round(1000 * value / count, 3) for name, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fasta", type=Path)
    model = "the folder of a model, by default the small ESM-2 for demonstration"
    parser.add_argument("--model", type=Path, default=MODEL, help=model)
    parser.add_argument("--budget", type=int, default=16_384, help="tokens a batch (%(default)s)")
    parser.add_argument("--width", type=int, default=320, help="values of a row (%(default)s)")
    parser.add_argument("--per-residue", action="store_true", help="write token rows, too")
    parser.add_argument("--profile", action="store_true", help="print profiles on stderr")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(Path(name), options)))


if __name__ == "__main__":
    main()
