"""Whether a run through the entry programs gives the same bytes, however it goes.

`embeddings` of one shard are compared with those of several shards, of the input reversed, of a run
that was killed and run again, and of a run beside a program that holds nearly all of the memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import contest
import gpu_library
import h5py
import numpy as np
import processes
import speed
from contestants import Ours, Scene, entry
from gpu_scene import emit, link_model, open_scene, parse, parser

# Tokens a batch beside the hog, more than it leaves room for; and for how many it does. The
# estimate is too high for large batches, whose feed-forward parts are computed block by block.
LARGE, ROOM = 262_144, 32_768
# Of the run that is compared with that of one shard.
SHARDS = 3
# Checkpoints of the run that is killed midway.
CHECKPOINTS = 20
OUT_OF_MEMORY = "out of memory"
POLL = 0.002
HOG = """
import sys, torch
free, leave = torch.cuda.mem_get_info()[0], int(sys.argv[1])
held = torch.empty(max(free - leave, 1), dtype=torch.uint8, device="cuda")
print(len(held), flush=True)
sys.stdin.read()
"""
# For a CPU: a program that holds no memory, and otherwise does what HOG does.
NO_HOG = "import sys; print(0, flush=True); sys.stdin.read()"


@dataclass(frozen=True)
class Entries:
    """Runs of the entry programs over an input, each in a folder of its own."""

    scene: Scene
    folder: Path
    execution: Mapping[str, object] = field(default_factory=dict)

    def embed_command(self, rank: int, shards: int) -> list[str]:
        ours = Ours(name="seqembed", shards=shards, execution=self.execution)
        return ours.command(self.scene, self.folder, rank, self.scene.threads)

    def run(self, shards: int = 1) -> np.ndarray:
        """Embed all shards, one after another, and merge them; return `embeddings`.

        Raises SystemExit if a worker did not compute as one on a GPU does.
        """
        speed.run_all(self.scene, [self.embed_command(rank, shards) for rank in range(shards)])
        for rank in range(shards):
            gpu_library.check_worker(self.log(rank), self.scene.device)
        output = self.folder / "race/embeddings.h5"
        paths = [self.folder / f"race/shards/shard_{rank}.h5" for rank in range(shards)]
        where = {"index": self.scene.folder / "index.parquet", "output": output}
        command = entry("merge", **where, quarantine=self.folder / "race/quarantine.tsv")
        speed.run_all(self.scene, [[*command, "--shards", *map(str, paths)]])
        with h5py.File(output, locking=False) as file:
            rows: np.ndarray = file["embeddings"][:]
        return rows

    def kill_midway(self) -> int:
        """Embed the one shard until SIGKILL at the first checkpoint; return the blocks there."""
        variables = processes.environment(self.scene.threads, {})
        command = [*self.embed_command(0, 1), "--parent", str(os.getpid())]
        with open(self.folder / "killed.err", "wb") as err:
            running = subprocess.Popen(
                command, env=variables, stdout=err, stderr=err, start_new_session=True
            )
        while running.poll() is None and not self._blocks():
            time.sleep(POLL)
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        if running.wait() != -signal.SIGKILL:
            raise SystemExit(f"not killed in time; it ended with {running.returncode}")
        return len(self._blocks())

    def _blocks(self) -> list[Path]:
        return [*(self.folder / "race/checkpoints").glob("*/shard_0/batch_*.safetensors")]

    def log(self, rank: int = 0) -> Path:
        return self.folder / f"worker_{rank}.log"


def reversed_scene(scene: Scene, folder: Path) -> Scene:
    """The scene with its records in the opposite order."""
    other = scene.at(folder)
    link_model(scene.folder, folder)
    records = scene.fasta.read_text().split(">")[1:]
    other.fasta.write_text("".join(f">{record}" for record in reversed(records)))
    speed.run_all(other, speed.index_commands(other, {1}))
    return other


def room_beside_hog(scene: Scene) -> int:
    """The bytes that the hog leaves: for the model, CUDA itself, and a batch of ROOM tokens."""
    shape, itemsize = scene.shape, contest.DTYPES[scene.precision].itemsize
    weights = shape.layers * sum(a * b for a, b in shape.products.values()) * itemsize
    return weights + 1_000_000_000 + gpu_library.activation_bytes(shape, ROOM, itemsize)


def run_beside_hog(entries: Entries) -> tuple[np.ndarray, int]:
    """The rows of a run beside the hog, and the bytes that it held."""
    code = HOG if entries.scene.device == "cuda" else NO_HOG
    command = [sys.executable, "-c", code, str(room_beside_hog(entries.scene))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as hog:  # type: ignore[call-overload]
        held = int(hog.stdout.readline())
        try:
            return entries.run(), held
        finally:
            hog.stdin.close()


def main() -> None:
    options = parse(parser(__doc__))
    scene = open_scene(options)
    failed = []

    def report(run: str, rows: np.ndarray, **facts: object) -> None:
        equal = rows.tobytes() == expected.tobytes()
        names = {"shape": scene.shape_name, "precision": scene.precision, "run": run}
        emit("run", **names, rows=len(rows), equal=equal, **facts)
        if not equal:
            failed.append(run)

    with tempfile.TemporaryDirectory(dir=scene.folder) as name:
        folders = {run: Path(name, run) for run in ("one", "several", "reversed", "killed", "hog")}
        for folder in folders.values():
            folder.mkdir()
        expected = Entries(scene, folders["one"]).run()
        report("one shard", expected)

        often = max(len(scene.lengths()) // CHECKPOINTS, 1)
        killed = Entries(scene, folders["killed"], {"checkpoint_seq_threshold": often})
        blocks = killed.kill_midway()
        report("killed and run again", killed.run(), blocks_before=blocks)

        hog = Entries(scene, folders["hog"], {"token_budget": LARGE})
        rows, held = run_beside_hog(hog)
        log = hog.log().read_text(encoding="utf-8").splitlines()
        lines = [line for line in log if OUT_OF_MEMORY in line.lower()]
        report("beside a hog", rows, hog_bytes=held, out_of_memory=lines)
        if held and not lines:
            failed.append("beside a hog: memory did not run out")

        other = reversed_scene(scene, folders["reversed"])
        report("input reversed", Entries(other, folders["reversed"]).run()[::-1])

        split = speed.index_commands(scene, {SHARDS})[1:]
        speed.run_all(scene, split)
        report(f"{SHARDS} shards", Entries(scene, folders["several"]).run(SHARDS))
    if failed:
        raise SystemExit(f"not as they should be: {failed}")


if __name__ == "__main__":
    main()
