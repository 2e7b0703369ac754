"""The contestants of a race, and how each is run once over the same sequences and weights."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import machine
import numpy as np
import processes
import pyarrow.parquet as pq
from shapes import SHAPES, Family, Shape

HERE = Path(__file__).resolve().parent
ENTRIES = HERE.parent / "workflow/scripts"
# glibc gives no memory back to the system: no page faults for what is allocated again.
KEPT = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295"}
# What a worker says, as its log has it: when its first batch came back, when all were computed, and
# when its model was loaded and its batches began.
FIRST = re.compile(r"^(\S+ \S+) INFO the first batch, ([0-9,]+) tokens", re.MULTILINE)
TOLD = re.compile(r"^(\S+ \S+) INFO ([0-9,]+) tokens were computed", re.MULTILINE)
BEGUN = re.compile(r"^(\S+ \S+) INFO at most [0-9,]+ tokens a batch", re.MULTILINE)
LOG_TIME = "%Y-%m-%d %H:%M:%S,%f"
# What a peer names its rows.
ROWS = "rows.npy"
EMBEDDING = {
    "layer": "last",
    "pooling": "mean",
    "per_residue": False,
    "storage": "float32",
    "long_sequences": "auto",
    "max_length": "auto",
}
EXECUTION = {
    "token_budget": "auto",
    "checkpoint_seq_threshold": 10_000,
    "checkpoint_time_threshold": 300,
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What every contestant of a race is given; `folder` holds input.fasta and the models."""

    folder: Path
    shape_name: str
    threads: int
    device: str
    precision: str

    @property
    def shape(self) -> Shape:
        return SHAPES[self.shape_name]

    @property
    def fasta(self) -> Path:
        return self.folder / "input.fasta"

    @property
    def how(self) -> dict[str, object]:
        """The options that all programs of this folder take."""
        return {"threads": self.threads, "device": self.device, "precision": self.precision}

    def shards(self, count: int) -> Path:
        """The folder of the input's split into so many shards."""
        return self.folder / f"shards_{count}"

    def at(self, folder: Path) -> Scene:
        """The same scene in another folder."""
        return replace(self, folder=folder)

    def lengths(self) -> list[int]:
        """The tokens of each sequence, specials included."""
        tokens = pq.read_table(self.shards(1) / "shard_0.parquet", columns=["tokens"])["tokens"]
        return [count + self.shape.specials for count in tokens.to_pylist()]


@dataclass(frozen=True, kw_only=True)
class Ours:
    """seqembed: the entry of the rule embed_shard, one process for each of `shards` at once."""

    name: str
    shards: int = 1
    precision: str | None = None
    execution: Mapping[str, object] = field(default_factory=dict)

    def run(self, scene: Scene, folder: Path) -> dict[str, Any]:
        threads = max(scene.threads // self.shards, 1)
        commands = [self.command(scene, folder, rank, threads) for rank in range(self.shards)]
        begin = time.time()
        ended = processes.run_together(commands, folder, processes.environment(threads, {}))
        logs = [folder / f"worker_{rank}.log" for rank in range(self.shards)]
        told = [tokens_and_seconds(TOLD, log) for log in logs]
        tokens = sum(count for count, _ in told)
        return {
            "tokens": tokens,
            # Packed: nothing is padded.
            "places": tokens,
            "seconds": max(seconds for _, seconds in told),
            "first": tokens_and_seconds(FIRST, logs[0]) if self.shards == 1 else None,
            "start": max(map(begun, logs)) - begin,
            "peak_mb": sum(each.peak_mb for each in ended),
            "rows": _read_rows(sorted((folder / "race/shards").glob("*.h5"))),
        }

    def command(self, scene: Scene, folder: Path, rank: int, threads: int) -> list[str]:
        """The command of the entry for one rank; `folder` gets race/ and worker_{rank}.log."""
        return entry(
            "embed_shard",
            index=scene.shards(self.shards) / f"shard_{rank}.parquet",
            model=scene.folder / "model.json",
            rank=rank,
            world_size=self.shards,
            output=folder / f"race/shards/shard_{rank}.h5",
            settings=json.dumps(EMBEDDING | {"precision": self.precision or scene.precision}),
            execution=json.dumps(EXECUTION | {"device": scene.device} | dict(self.execution)),
            threads=threads,
            log=folder / f"worker_{rank}.log",
        )


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A program of this folder that times itself; `model`: of the scene's, what it reads."""

    name: str
    program: str
    model: str
    options: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def run(self, scene: Scene, folder: Path) -> dict[str, Any]:
        found, peak_mb = self._run(scene, folder, ())
        return found | {"peak_mb": peak_mb, "rows": np.load(folder / ROWS)}

    def at(self, budget: int) -> Peer:
        """This peer with a token budget of `budget`."""
        return replace(self, options=[*self.options, "--budget", str(budget)])

    def tune(self, scene: Scene, folder: Path, budgets: Sequence[int]) -> dict[str, Any]:
        """Return the speed of a part of the input at each budget, as contest.race prints it."""
        return self._run(scene, folder, ["--tune", *map(str, budgets)])[0]

    def _run(
        self, scene: Scene, folder: Path, options: Sequence[str]
    ) -> tuple[dict[str, Any], float]:
        model, rows = scene.folder / self.model, folder / ROWS
        command = program(self.program, **scene.how, model=model, fasta=scene.fasta, rows=rows)
        variables = processes.environment(scene.threads, self.variables)
        ended = processes.run([*command, *self.options, *options], folder, variables)
        return json.loads(ended.stdout), ended.peak_mb


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """No contestant: the machine's peak of matrix products, measured in the same rounds."""

    name: str = "gemm"
    rows: int | None = None

    def run(self, scene: Scene, folder: Path) -> dict[str, Any]:
        rows = {} if self.rows is None else {"rows": self.rows}
        command = program("gemm", **scene.how, shape=scene.shape_name, **rows)
        ended = processes.run(command, folder, processes.environment(scene.threads, {}))
        return json.loads(ended.stdout)


@dataclass(frozen=True, kw_only=True)
class Import:
    """No contestant: the start of a process that imports torch, and so the least for all."""

    name: str = "import torch"

    def run(self, scene: Scene, folder: Path) -> dict[str, Any]:
        command = [sys.executable, "-c", "import time, torch; print(time.time())"]
        begin = time.time()
        ended = processes.run(command, folder, processes.environment(scene.threads, {}))
        return {"start": float(ended.stdout) - begin}


Contestant = Ours | Peer | Gemm | Import


def fastest(speeds: Mapping[str, float | None]) -> int | None:
    """The budget of the highest speed, of those that Peer.tune found; None if none could run."""
    known = {budget: speed for budget, speed in speeds.items() if speed}
    return int(max(known, key=known.__getitem__)) if known else None


def contestants(scene: Scene, gpus: int, peak_rows: int | None = None) -> list[Contestant]:
    """All that can run here; several shards share the cores, or have a GPU each.

    peak_rows: of the products whose speed is the peak; gemm.py's own where None.
    """
    ours = [Ours(name="seqembed")]
    shards = gpus if scene.device == "cuda" else 2
    if shards > 1 and scene.threads >= shards:
        ours.append(Ours(name=f"seqembed, {shards} shards", shards=shards))
    if scene.device == "cpu" and machine.has_bf16():
        ours.append(Ours(name="seqembed, bf16", precision="bf16"))
    return [
        *ours,
        *PEERS[scene.shape.family],
        Gemm(rows=peak_rows),
        Import(),
    ]


def transformers_peer(name: str, order: str, variables: Mapping[str, str] | None = None) -> Peer:
    return Peer(
        name=f"transformers, {name}",
        program="peer_transformers",
        model="models/hf",
        options=["--order", order],
        variables=variables or {},
    )


TRANSFORMERS_PEERS = [
    transformers_peer("sorted", "sorted"),
    transformers_peer("packed", "packed"),
    transformers_peer("sorted, kept memory", "sorted", KEPT),
    transformers_peer("unsorted", "unsorted"),
    transformers_peer("one at a time", "single"),
]
# transformers packs no sequences whose attention has biases.
T5_PEERS = [peer for peer in TRANSFORMERS_PEERS if "packed" not in peer.options]
FAIR = Peer(name="fair-esm", program="peer_fair_esm", model="models/fair.pt")
FAIR_PEERS = [FAIR, replace(FAIR, name="fair-esm, kept memory", variables=KEPT)]
DNA_PEERS = [Peer(name="padded PyTorch", program="peer_dnabert_s", model="models/hf")]
PEERS: dict[Family, list[Peer]] = {
    "esm2": TRANSFORMERS_PEERS + FAIR_PEERS,
    "esmc": TRANSFORMERS_PEERS,
    "prot_t5": T5_PEERS,
    "ankh": T5_PEERS,
    "dnabert_s": DNA_PEERS,
}


def entry(script: str, /, **options: object) -> list[str]:
    """The command of one of the workflow's entry programs."""
    return _command(ENTRIES / f"{script}.py", options)


def program(script: str, /, **options: object) -> list[str]:
    """The command of a program of this folder."""
    return _command(HERE / f"{script}.py", options)


def _command(path: Path, options: Mapping[str, object]) -> list[str]:
    words = [[f"--{name.replace('_', '-')}", str(value)] for name, value in options.items()]
    return [sys.executable, str(path), *(word for pair in words for word in pair)]


def tokens_and_seconds(pattern: re.Pattern[str], log: Path) -> tuple[int, float]:
    """The tokens in the line of a worker's log that `pattern` finds, and its time.

    pattern: FIRST or TOLD. The time is in seconds after the worker's batches began: as a peer's, it
    counts no loading.
    """
    found = _search(pattern, log)
    return int(found[2].replace(",", "")), _read_time(found) - begun(log)


def begun(log: Path) -> float:
    """When a worker's batches began, in seconds since the epoch."""
    return _read_time(_search(BEGUN, log))


def _read_time(found: re.Match[str]) -> float:
    return datetime.strptime(found[1], LOG_TIME).timestamp()


def _search(pattern: re.Pattern[str], log: Path) -> re.Match[str]:
    found = pattern.search(log.read_text())
    if not found:
        raise SystemExit(f"{log}: has no line like {pattern.pattern!r}")
    return found


def _read_rows(shards: Sequence[Path]) -> np.ndarray:
    """The (N, D) rows of the sequences s0, s1, ... in this order."""
    rows: dict[int, np.ndarray] = {}
    for path in shards:
        with h5py.File(path, locking=False) as file:
            numbers = (int(name[1:]) for name in file["sequence_ids"].asstr()[:])
            rows.update(zip(numbers, file["embeddings"][:], strict=True))
    return np.stack([rows[number] for number in range(len(rows))])
