"""The workflow as its users run it: by the real snakemake, on a copy of the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

ROOT = Path(__file__).parents[2]
MODEL = "tests/data/esm2_random"
DEMOS = ("resources/models/esm2_demo", "resources/models/dnabert_s_demo")
EXAMPLE = "resources/example"
PARTS = ("Snakefile", "workflow", "config", "profiles", "envs", MODEL, *DEMOS)
EXAMPLE_FILES = ("config.yaml", "proteins.fasta", "contigs.fasta")
# All that a run starts inherits this variable, so that /proc tells what is left of it.
MARK = f"WORKFLOW_TEST_RUN={uuid.uuid4().hex}"
RUN_SECONDS = 240
WAIT_SECONDS = 60
POLL_SECONDS = 0.02

_STATS = re.compile(r"^([a-z_0-9]+) +([0-9]+)$", re.MULTILINE)
_EMBEDDED = re.compile(
    r"^embed_shard.* are in (\S+): ([0-9,]+) computed.*, ([0-9,]+) finished before, "
    r"([0-9,]+) reused$",
    re.MULTILINE,
)


def copy_checkout(target: Path) -> Path:
    """A checkout as a clone would bring it: nothing of any run in it."""
    ignore = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        source, copy = ROOT / part, target / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=ignore)
        else:
            shutil.copy(source, copy)
    (target / EXAMPLE).mkdir(parents=True)
    for name in EXAMPLE_FILES:
        shutil.copy(ROOT / EXAMPLE / name, target / EXAMPLE / name)
    return target


@dataclass(frozen=True)
class Outcome:
    """How a run of snakemake ended, and all that it wrote."""

    code: int
    text: str

    @property
    def jobs(self) -> dict[str, int]:
        """How many jobs of each rule were planned."""
        table = self.text.partition("\nJob stats:\n")[2].partition("\n\n")[0]
        return {rule: int(count) for rule, count in _STATS.findall(table)}

    @property
    def embedded(self) -> dict[str, tuple[int, int]]:
        """Of each shard that was written: how many sequences were computed, and taken over."""
        return {path: (new, old + reused) for path, new, old, reused in self._shards()}

    @property
    def reused(self) -> int:
        """How many sequences were taken from results."""
        return sum(reused for *_, reused in self._shards())

    def _shards(self) -> list[tuple[str, int, int, int]]:
        found = _EMBEDDED.findall("\n".join(self.said_by("embed_shard")))
        return [(path, *map(_number, counts)) for path, *counts in found]

    def said_by(self, *programs: str) -> list[str]:
        """The lines of these of our programs on the terminal, each from the program's name on.

        They do not all begin a line there: Snakemake writes a message and the end of its line
        apart, and another process may write between the two.
        """
        begin = rf"\b(?:{'|'.join(programs)})(?: \S+(?: [0-9]+)?)?: "
        return re.findall(rf"{begin}.+$", self.text, re.MULTILINE)

    @property
    def computed(self) -> int:
        return sum(new for new, _ in self.embedded.values())

    @property
    def nothing_to_do(self) -> bool:
        return "Nothing to be done" in self.text


def _number(text: str) -> int:
    return int(text.replace(",", ""))


@dataclass(frozen=True)
class Place:
    """A checkout, the folder that it is run in, and what it finds in its environment."""

    checkout: Path
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def configure(self, **config: Any) -> None:
        """Write the folder's config/config.yaml."""
        path = self.folder / "config/config.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(config))

    def copy_to(self, folder: Path) -> Place:
        """The same in another folder, times and Snakemake's memory of it included."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Place(self.checkout, folder)

    def run(self, *arguments: str, ok: bool = True, cores: int | None = 2) -> Outcome:
        """Run snakemake to its end, which must be a good one unless `ok` says otherwise."""
        with self.start(*arguments, cores=cores) as driver:
            text = driver.communicate(timeout=RUN_SECONDS)[0]
        assert (driver.returncode == 0) is ok, text
        return Outcome(driver.returncode, text)

    def plan(self, *arguments: str, ok: bool = True) -> Outcome:
        return self.run("--dry-run", *arguments, ok=ok)

    @contextmanager
    def start(
        self, *arguments: str, cores: int | None = 2, stderr: int | IO[str] = subprocess.STDOUT
    ) -> Iterator[Driver]:
        """Start snakemake in a process group of its own; nothing of it outlives the body.

        cores: None where a profile says what runs at once. stderr: where standard error goes.
        """
        command = [sys.executable, "-m", "snakemake"]
        command += [] if cores is None else [f"--cores={cores}"]
        where = () if self.folder == self.checkout else ("--directory", str(self.folder))
        mark = f"{MARK}-{uuid.uuid4().hex}"
        driver = Driver(
            [*command, *where, *arguments],
            cwd=self.checkout,
            env=_environment(self.checkout) | dict(self.environment) | dict([mark.split("=")]),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )
        driver.mark = mark
        try:
            yield driver
        finally:
            wait_until(driver.kill_all, "every process of the run is killed")
            driver.wait(WAIT_SECONDS)
            driver.stdout.close()


class Driver(subprocess.Popen):
    """A running snakemake."""

    mark: str

    def alive(self) -> list[int]:
        """All living processes of this run; a zombie has no environment left, and is none."""
        return find_processes(self.mark)

    def wait_until(
        self, condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS
    ) -> None:
        """Wait until the condition holds, which it must before the run ends."""
        wait_until(lambda: condition() or self.poll() is not None, what, seconds)
        assert condition(), f"the run ended before this: {what}\n{self.stdout.read()}"

    def wait_for_end(self, seconds: float) -> None:
        """Wait until no process of the run is alive."""
        wait_until(lambda: not self.alive(), "every process of the run has ended", seconds)

    def kill_all(self) -> bool:
        """Kill whatever is alive; return whether nothing was."""
        processes = self.alive()
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return not processes

    def signal_all(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)


def find_processes(assignment: str) -> list[int]:
    """The processes whose environment holds `NAME=value`, or begins a value so."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = entry.read_bytes()
        except OSError:
            continue
        if any(text.startswith(assignment.encode()) for text in environment.split(b"\0")):
            found.append(int(entry.parent.name))
    return found


def heed_interrupts() -> None:
    """A shell's background job ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _environment(checkout: Path) -> dict[str, str]:
    """Without what a user's own profile, or a job that runs the tests, would change."""
    names = (
        "SNAKEMAKE_PROFILE",
        "SLURM_STEP_ID",
        "SLURM_JOB_ID",
        "SEQEMBED_DISABLE_FP16",
        "PYTHONPATH",
    )
    kept = {name: value for name, value in os.environ.items() if name not in names}
    caches = {f"XDG_{name}_HOME": str(checkout / ".home") for name in ("CACHE", "CONFIG", "DATA")}
    return kept | caches


def wait_until(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until the condition holds; fail with `what` where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(POLL_SECONDS)


def make_proteins(count: int, lengths: tuple[int, int] = (8, 60), seed: int = 1) -> dict[str, str]:
    """`count` random proteins by id, of lengths from the first to the second, all distinct."""
    random = np.random.default_rng(seed)
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    sizes = random.integers(*lengths, size=count, endpoint=True)
    return {f"p{n}": "".join(random.choice(letters, size)) for n, size in enumerate(sizes)}


def write_fasta(path: Path, proteins: Mapping[str, str], description: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    records = (f">{name} {description}\n{residues}\n" for name, residues in proteins.items())
    path.write_text("".join(records))
    return path


def read_rows(path: Path) -> tuple[list[str], bytes]:
    """The ids of an embeddings.h5, and the bytes of its embeddings."""
    with h5py.File(path, locking=False) as file:
        return list(file["sequence_ids"].asstr()[:]), file["embeddings"][:].tobytes()


def read_ids(path: Path) -> list[str]:
    lines: Sequence[str] = path.read_text().splitlines()
    return [line[1:].split()[0] for line in lines if line.startswith(">")]
