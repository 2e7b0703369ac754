"""A dataset's pipeline without Snakemake: the entry programs, one after the other, in a folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from driver import find_processes, heed_interrupts

ROOT = Path(__file__).parents[2]
SCRIPTS = "workflow/scripts"
MODEL = ROOT / "resources/models/esm2_demo"
RESULTS = "results/work"
REUSE = "earlier/embeddings.h5"
PREPARED = "resources/models/demo.json"
INDEX, RESIDUES = f"{RESULTS}/index.parquet", f"{RESULTS}/residues.bin"
# Of each program: its name and options; the settings of split and embed_shard come behind them.
COMMANDS = {
    "prepare": f"prepare_model.py --name demo --source model --output {PREPARED}",
    "index": "index.py --fasta input.faa --ids header --invalid-residues skip --gaps error "
    f"--suspicious error --model {PREPARED} --output {INDEX} --residues {RESIDUES}",
    "split": f"split.py --index {INDEX} --residues {RESIDUES} --output-dir {RESULTS}/index "
    f"--world-size {{shards}} --model {PREPARED} --device cpu",
    "embed": f"embed_shard.py --model {PREPARED} --index {RESULTS}/index/shard_{{rank}}.parquet "
    "--rank {rank} --world-size {shards} --threads 1 "
    f"--output {RESULTS}/shards/shard_{{rank}}.h5",
    "merge": f"merge.py --index {INDEX} --shards {{paths}} "
    f"--output {RESULTS}/embeddings.h5 --quarantine {RESULTS}/quarantine.tsv",
}


def list_outputs(shards: int) -> dict[str, tuple[str, ...]]:
    """What the rules declare, by the stage that makes it, in the order of the stages."""
    before: dict[str, tuple[str, ...]] = {
        "prepare": (PREPARED,),
        "index": (INDEX, RESIDUES),
        "split": (f"{RESULTS}/index",),
    }
    embed = {f"embed_{n}": (f"{RESULTS}/shards/shard_{n}.h5",) for n in range(shards)}
    merge = {"merge": (f"{RESULTS}/embeddings.h5", f"{RESULTS}/quarantine.tsv")}
    return before | embed | merge


OUTPUTS = list_outputs(shards=2)
STAGES = tuple(OUTPUTS)
HANG_SECONDS = 120
# Within these every process of a stage is gone once the stage is.
LINGER_SECONDS = 15
EMBEDDING = {
    "layer": "last",
    "pooling": "mean",
    "precision": "auto",
    "storage": "float32",
    "long_sequences": "window",
    "max_length": 100,
}
# With these, rows are left for a last block at the end of each shard.
EXECUTION = {
    "device": "cpu",
    "token_budget": 700,
    "checkpoint_seq_threshold": 9,
    "checkpoint_time_threshold": 300,
}


@dataclass(frozen=True)
class Ended:
    """How a stage ended: its exit code, what it said, and the processes that outlived it."""

    stage: str
    code: int
    said: str
    seconds: float
    hung: bool = False
    left: int = 0

    @property
    def last_line(self) -> str:
        return (self.said.strip().splitlines() or [""])[-1]


@dataclass(frozen=True)
class Tree:
    """A folder in which the programs of `scripts` run; `per_residue` asks for token rows.

    shards: how many. reuse: the files of the setting `reuse`.
    """

    folder: Path
    per_residue: bool
    scripts: Path
    shards: int = 2
    reuse: tuple[str, ...] = ()

    @property
    def results(self) -> Path:
        return self.folder / RESULTS

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(list_outputs(self.shards))

    def outputs(self, stage: str) -> list[Path]:
        """What the stage's rule declares."""
        return [self.folder / name for name in list_outputs(self.shards)[stage]]

    def is_done(self, stage: str) -> bool:
        """Whether all that its rule declares is there."""
        return all(path.exists() for path in self.outputs(stage))

    def remove_outputs(self, stage: str) -> None:
        """As Snakemake does before a job, and after one that failed."""
        for path in self.outputs(stage):
            remove(path)

    def command(self, stage: str, parent: int | str | None = None) -> list[str]:
        """The stage's program with its arguments, as the workflow calls it."""
        name, _, rank = stage.partition("_")
        paths = [f"{RESULTS}/shards/shard_{n}.h5" for n in range(self.shards)]
        words = {"rank": rank, "shards": self.shards, "paths": " ".join(paths)}
        script, *options = COMMANDS[name].format(**words).split()
        command = [sys.executable, str(self.scripts / script), "--log", f"logs/{stage}.log"]
        if name in ("split", "embed"):
            settings = EMBEDDING | {"per_residue": self.per_residue}
            options += ["--settings", json.dumps(settings)]
        if name == "split" and self.reuse:
            options += ["--reuse", *self.reuse]
        if name == "embed":
            options += ["--execution", json.dumps(EXECUTION | {"reuse": self.reuse})]
            options += ["--parent", str(parent)] if parent else []
        return [*command, *options]

    def run(
        self,
        stage: str,
        environment: Mapping[str, str] | None = None,
        meanwhile: Callable[[Running], None] | None = None,
        command: Sequence[str] | None = None,
    ) -> Ended:
        """Run a stage to its end; `meanwhile` disturbs it."""
        with Running(self, stage, environment or {}, command) as running:
            if meanwhile:
                meanwhile(running)
            return running.finish()


class Running:
    """A stage that runs, in a process group of its own; nothing of it outlives the body."""

    def __init__(
        self,
        tree: Tree,
        stage: str,
        environment: Mapping[str, str],
        command: Sequence[str] | None = None,
    ) -> None:
        self.stage, self._began = stage, time.monotonic()
        self._mark = f"FAULTS_RUN={uuid.uuid4().hex}"
        name, value = self._mark.split("=")
        (tree.folder / "tmp").mkdir(exist_ok=True)
        own = {name: value, "TMPDIR": str(tree.folder / "tmp"), "OMP_NUM_THREADS": "1"}
        # Outside of the tree, whose disk may be full.
        self._said = tree.folder.with_name(f"{tree.folder.name}.{uuid.uuid4().hex[:8]}.said")
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                command or tree.command(stage),
                cwd=tree.folder,
                env=_clean_environment() | own | dict(environment),
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=heed_interrupts,
            )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        while self.alive():
            self.kill(self.alive())
        self.process.wait()

    def alive(self) -> list[int]:
        """All its living processes."""
        return find_processes(self._mark)

    def worker(self) -> int | None:
        """The worker's pid, if it has begun."""
        for pid in self.alive():
            with suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    def kill(self, pids: Sequence[int], number: signal.Signals = signal.SIGKILL) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self, seconds: float) -> None:
        """Wait so long, or to its end."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def finish(self) -> Ended:
        self.wait(HANG_SECONDS)
        hung = self.process.poll() is None
        left = [] if hung else self._linger()
        took = time.monotonic() - self._began
        said = self._said.read_text(errors="replace")
        self._said.unlink()
        code = self.process.returncode
        return Ended(self.stage, 1 if code is None else code, said, took, hung, len(left))

    def _linger(self) -> list[int]:
        deadline = time.monotonic() + LINGER_SECONDS
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left


def _clean_environment() -> dict[str, str]:
    names = ("SLURM_STEP_ID", "SEQEMBED_DISABLE_FP16", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in names}


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy_tree(source: Path, target: Path) -> None:
    """Copy with times, and with hard links within it: damage reaches both names, as on a disk."""
    subprocess.run(["cp", "-a", source, target], check=True)


def make_records() -> list[tuple[str, str]]:
    """150 records: short and long, some equal, some with residues that the model does not know."""
    generator = random.Random(1)
    lengths = [*(generator.randint(20, 160) for _ in range(130)), 300, 420, 700, 1100]
    sequences = ["".join(generator.choices("LAGVSERTIDPKQNFYMHWC", k=n)) for n in lengths]
    sequences += [*generator.sample(sequences, 14), "MJK", "AAJJ"]
    generator.shuffle(sequences)
    return [(f"s{n} number {n}", text) for n, text in enumerate(sequences)]


def write_records(path: Path, records: Iterable[tuple[str, str]]) -> None:
    path.write_text("".join(f">{head}\n{residues}\n" for head, residues in records))
