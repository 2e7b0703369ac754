"""Projects for workers, and workers in processes of their own, with faults where asked for."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from indexing import index_proteins, split_proteins

import seqembed
from seqembed.checkpoints.blocks import write_next_block
from seqembed.checkpoints.finished_shard import INDEX
from seqembed.checkpoints.manifest_and_failures import (
    CheckpointManifest,
    read_manifest,
    write_manifest,
)
from seqembed.checkpoints.saved_rows import list_saved, read_all_saved
from seqembed.checks.residues import ResidueCheck
from seqembed.index.reader import read_shard_index
from seqembed.models.prepared import read_prepared
from seqembed.storage.publish import link

SCRIPTS = Path(seqembed.__file__).parents[1]
BUNDLED_MODEL = Path(__file__).parents[1] / "data/esm2_random"
GOLDEN = Path(__file__).parents[1] / "golden"  # it has a manifest.json
WIDTH = 64
EMBEDDING = {
    "layer": "last",
    "pooling": "mean",
    "per_residue": False,
    "precision": "auto",
    "storage": "float32",
    "long_sequences": "error",
    "max_length": "auto",
}


def make_sequences(lengths: Sequence[int], seed: int = 1) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices("LAGVSERTIDPKQNFYMHWC", k=n)) for n in lengths]


SEQUENCES = make_sequences([1, 2, 5, 130, 300, 7, 40, 41, 42, 299, *range(50, 230, 6)])


@dataclass(frozen=True)
class Project:
    """results/demo of a project, its input split into `world_size` shards."""

    folder: Path
    model: Path
    world_size: int = 1

    @property
    def results(self) -> Path:
        return self.folder / "results/demo"

    @property
    def output(self) -> Path:
        return self.results / "shards"

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    def index(self, rank: int = 0) -> Path:
        return self.results / f"index/shard_{rank}.parquet"

    def checkpoints(self, rank: int = 0) -> Path:
        """The one checkpoint folder that there is."""
        (found,) = self.results.glob(f"checkpoints/*/shard_{rank}")
        return found

    def config(self, **changes: Any) -> dict[str, Any]:
        return {
            "model": str(self.model),
            "embedding": EMBEDDING,
            "device": "cpu",
            "token_budget": 512,
            "checkpoint_seq_threshold": 1,
            "checkpoint_time_threshold": 300.0,
            "threads": 1,
            "log_path": str(self.log),
        } | changes

    def content(self, rank: int = 0) -> tuple[bytes, list[bytes]]:
        """The bytes of `embeddings`, and the ids, of a finished shard."""
        with h5py.File(self.output / f"shard_{rank}.h5") as file:
            return file["embeddings"][:].tobytes(), file["sequence_ids"][:].tolist()


def make_project(
    folder: Path,
    model: Path,
    sequences: Sequence[str] = SEQUENCES,
    *,
    world_size: int = 1,
    prefix: str = "s",
    check: ResidueCheck | None = None,
) -> Project:
    """Index and split `sequences`, proteins without a `check`; ids are `prefix` and a number."""
    project = Project(folder, model, world_size)
    folder.mkdir(exist_ok=True)
    fasta = folder / "input.faa"
    records = enumerate(sequences)
    fasta.write_text("".join(f">{prefix}{n}\n{sequence}\n" for n, sequence in records))
    index_proteins([fasta], project.results / "index.parquet", check=check)
    shards = [project.index(rank) for rank in range(world_size)]
    split_proteins(project.results / "index.parquet", shards)
    return project


def begin(folder: Path, index_path: Path, **changes: Any) -> CheckpointManifest:
    """Make a checkpoint folder what it is before its first block; return the manifest.

    This is the golden one, of rank 1 of 2, with `changes`.
    """
    manifest = replace(read_manifest(GOLDEN), **changes)
    write_manifest(folder, manifest)
    link(index_path, folder / INDEX)
    return manifest


def forget(project: Project, rows: Sequence[int]) -> None:
    """Make a finished shard, of unflagged rows, one whose `rows` are to be computed."""
    folder, digests = project.checkpoints(), read_shard_index(project.index()).digests
    pairs = [
        (digest.tobytes(), row.copy())
        for saved in read_all_saved(folder)
        for digest, row in zip(saved.digests, saved.rows, strict=True)
    ]
    for path in (*list_saved(folder), project.output / "shard_0.h5"):
        path.unlink(missing_ok=True)
    kept, flags = np.delete(digests, rows, axis=0), np.zeros(len(digests) - len(rows), np.uint8)
    values = np.stack([dict(pairs)[digest.tobytes()] for digest in kept])
    write_next_block(folder, kept, values, flags, batches=1)


def embed_command(
    index: Path, model: Path, output: Path, log: Path, *more: str, **execution: Any
) -> list[str]:
    """embed_shard.py for rank 0 of 1 on a CPU."""
    chosen = {"device": "cpu", "token_budget": "auto"} | execution
    intervals = {"checkpoint_seq_threshold": 10_000, "checkpoint_time_threshold": 300}
    return [
        *(sys.executable, str(SCRIPTS / "embed_shard.py"), "--rank", "0", "--world-size", "1"),
        *("--index", str(index), "--model", str(model), "--output", str(output), "--log", str(log)),
        *("--settings", json.dumps(EMBEDDING), "--execution", json.dumps(intervals | chosen)),
        *("--threads", "1", *more),
    ]


@dataclass(frozen=True)
class Outcome:
    """What a worker put on its queue, and how it ended."""

    status: dict[str, Any] | None
    exit_code: int | None


class WorkerProcess:
    """A worker in a process of its own, with a queue of its own."""

    def __init__(
        self,
        context: Any,
        project: Project,
        fault: Callable[[], None] | None = None,
        *,
        rank: int = 0,
        index: Path | None = None,
        **changes: Any,
    ) -> None:
        self._queue = context.Queue()
        where = (index or project.index(rank), project.output)
        arguments = (rank, project.world_size, self._queue, *where)
        self.process = context.Process(
            target=_work, args=(fault, *arguments, project.config(**changes))
        )
        self.process.start()

    def finish(self) -> Outcome:
        self.process.join(60)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError("the worker did not end")
        try:
            status = self._queue.get(timeout=0.2)
        except queue.Empty:
            status = None
        self._queue.close()
        return Outcome(status, self.process.exitcode)


def get_context(method: str) -> Any:
    """Processes that start with PyTorch imported ("forkserver"), or from nothing ("spawn")."""
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        # pytest, too: each process imports the main program again.
        context.set_forkserver_preload(["seqembed.gpu_worker", "worker_runs", "pytest"])
    return context


def _work(fault: Callable[[], None] | None, *arguments: Any) -> None:
    from seqembed.gpu_worker import gpu_worker

    if fault:
        fault()
    gpu_worker(*arguments)


# Faults: called in the worker's process before it begins.


def killed_after_a_block() -> None:
    """SIGKILL as soon as the first block is on disk."""
    from seqembed.worker import checkpoint_writer

    write = checkpoint_writer.write_next_block

    def write_and_die(*arguments: Any, **named: Any) -> Path:
        write(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("not reached")

    checkpoint_writer.write_next_block = write_and_die


def killed_before_the_shard() -> None:
    """SIGKILL when all rows are in blocks, and the shard is to be written."""
    from seqembed import gpu_worker

    gpu_worker._save_shard = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def one_value_not_finite() -> None:
    """The first sequence's values are taken for not finite when they are computed first."""
    from seqembed.inference import runner

    find, calls = runner._find_finite, itertools.count()

    def find_but_one(*rows: Any) -> np.ndarray:
        finite = find(*rows)
        finite[0] &= next(calls) > 0
        return finite

    runner._find_finite = find_but_one


def split_anew_at_the_end() -> None:
    """Put results/edited.parquet in place of the shard's index when the shard is written."""
    from seqembed import gpu_worker

    save = gpu_worker._save_shard

    def save_and_replace(rank: int, folder: Path, *rest: Any) -> Path:
        path, results = save(rank, folder, *rest), folder.parents[2]
        os.replace(results / "edited.parquet", results / f"index/shard_{rank}.parquet")
        return path

    gpu_worker._save_shard = save_and_replace


def before_each_batch(act: Callable[[Any], None]) -> None:
    """Call `act` with the tokens, (T,), of each batch before the model computes it."""
    from seqembed.models.encoders.esm2 import Esm2

    forward = Esm2.forward

    def act_and_forward(self: Any, tokens: Any, packing: Any) -> Any:
        act(tokens)
        return forward(self, tokens, packing)

    Esm2.forward = act_and_forward  # type: ignore[method-assign]


def _in_third_batch(action: Callable[[], None]) -> None:
    numbers = itertools.count(1)
    before_each_batch(lambda tokens: action() if next(numbers) == 3 else None)


def terminated_in_third_batch(times: int = 1, seconds: float = 0) -> None:
    """SIGTERM comes `times` times in the third batch, which takes `seconds` longer."""

    def terminate() -> None:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds)

    _in_third_batch(terminate)


def terminated_before_the_model() -> None:
    from seqembed import gpu_worker

    open_run = gpu_worker.open_run

    def open_and_terminate(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return open_run(*arguments)

    gpu_worker.open_run = open_and_terminate


def loads_as_for_a_gpu(act: Callable[[], None] = lambda: None) -> None:
    """The model loads in a thread, which calls `act` first, and goes to the CPU all the same."""
    import torch

    from seqembed import gpu_worker
    from seqembed.worker.decisions import Run

    load, start = gpu_worker._load_model, Run.start_loading

    def start_for_a_gpu(run: Run, load: Any) -> Any:
        return start(replace(run, device=torch.device("cuda")), load)

    def act_and_load(*arguments: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        act()
        return load(*arguments)

    Run.start_loading = start_for_a_gpu  # type: ignore[method-assign]
    gpu_worker._load_model = act_and_load


def terminated_while_the_model_loads() -> None:
    loads_as_for_a_gpu(lambda: os.kill(os.getpid(), signal.SIGTERM))


def without_memory_for_the_model() -> None:
    def fail() -> None:
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    loads_as_for_a_gpu(fail)


def accelerator_error_in_third_batch() -> None:
    import torch

    def fail() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access " + "x" * 9000)

    _in_third_batch(fail)


def disk_full_at_the_third_block() -> None:
    from seqembed.worker import checkpoint_writer

    write, calls = checkpoint_writer.write_next_block, []

    def write_or_fail(*arguments: Any, **named: Any) -> Path:
        calls.append(None)
        if len(calls) >= 3:
            raise OSError(28, "No space left on device")
        return write(*arguments, **named)

    checkpoint_writer.write_next_block = write_or_fail


def weights_gone_when_loaded() -> None:
    from seqembed import gpu_worker

    load = gpu_worker._load_model

    def load_and_remove(model_config: dict[str, Any], *others: Any) -> Any:
        loaded = load(model_config, *others)
        Path(read_prepared(Path(model_config["model"])).weights).unlink()
        return loaded

    gpu_worker._load_model = load_and_remove


def note_tokens(path: Path) -> None:
    """Write down how many tokens go through the model in each batch, dummies included."""

    def note(tokens: Any) -> None:
        with path.open("a") as file:
            file.write(f"{len(tokens)}\n")

    before_each_batch(note)


def slow_batches() -> None:
    """A tenth of a second a batch, so that others find this worker at work."""
    before_each_batch(lambda tokens: time.sleep(0.1))


def without_locks() -> None:
    import fcntl

    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    fcntl.flock = refuse  # type: ignore[assignment]


def slow_batches_without_locks() -> None:
    without_locks()
    slow_batches()


def note_steps(path: Path) -> None:
    """Write down the rows of each step when it was computed, and be a little slow."""
    from seqembed.inference import streams

    compute = streams._compute

    def compute_and_note(batch: Any, *arguments: Any) -> Any:
        time.sleep(0.02)
        rows = compute(batch, *arguments)
        with path.open("a") as file:
            file.write(" ".join(map(str, batch.positions)) + "\n")
        return rows

    streams._compute = compute_and_note
