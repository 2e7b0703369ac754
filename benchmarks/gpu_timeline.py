"""The time line of one worker, from its process's start to its end, and the least that it takes.

The worker is the entry of the rule embed_shard. It runs twice, first with an empty cache of
compiled kernels; with `--from-disk` once more between the two, with nothing of the weights in the
kernel's cache of files. The least times are of fresh processes: `import torch`, that and CUDA's
start, and reading the weights' files once, from that cache and from the disk. The peak, the speed
of matrix products alone, is measured once, before the first worker.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import gpu_library
import processes
from contestants import FIRST, LOG_TIME, TOLD, Gemm, Ours, Scene, tokens_and_seconds
from gpu_scene import emit, open_scene, parse, parser, weight_files

FROM_DISK = "from disk"
LINE = re.compile(r"^(\d\S+ \d\S+) (\w+) (.*)$", re.MULTILINE)
# What a line of the log marks on the time line.
POINTS = {
    "PyTorch is imported": r"the worker has imported PyTorch",
    "settings are read": r"model \S+ on ",
    "weights are on the device": r"the model is on ",
    "batches begin": r"at most [0-9,]+ tokens a batch",
    "first batch is done": r"the first batch, ",
    "all batches are done": r"[0-9,]+ tokens were computed in ",
    "the shard is written": r"the rows of [0-9,]+ sequences are in ",
}
READ = """
import sys, time
begin, buffer = time.perf_counter(), bytearray(1 << 24)
for name in sys.argv[1:]:
    with open(name, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
print(time.perf_counter() - begin)
"""
FLOORS = {
    "import torch": "import time, torch; print(time.time())",
    "import torch and CUDA's start": (
        "import time, torch; torch.zeros(1, device='cuda').cpu(); print(time.time())"
    ),
}


def read_log(log: Path, begin: float) -> list[tuple[float, str]]:
    """The lines of a worker's log, each with its seconds since the process began."""
    found = []
    for when, _, text in LINE.findall(log.read_text(encoding="utf-8")):
        found.append((datetime.strptime(when, LOG_TIME).timestamp() - begin, text))
    return found


def drop_from_cache(paths: Sequence[Path]) -> int:
    """Take files out of the kernel's cache; return how many of them are still there.

    Some file systems keep all files in memory.
    """
    for path in paths:
        with open(path, "rb") as file:
            # What is not on the disk yet cannot be dropped.
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return sum(map(is_in_cache, paths))


def is_in_cache(path: Path) -> bool:
    """Whether the kernel has the middle of a file in its cache; true if it does not say."""
    middle = path.stat().st_size // 2 // mmap.PAGESIZE * mmap.PAGESIZE
    state = ctypes.c_ubyte(1)
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_COPY, offset=middle) as page,
    ):
        first = ctypes.c_char.from_buffer(page)
        # A read, even one that may not wait, would bring the page there.
        ctypes.CDLL(None).mincore(ctypes.byref(first), ctypes.c_size_t(1), ctypes.byref(state))
        del first
    return bool(state.value & 1)


def run_worker(scene: Scene, folder: Path, kernels: Path) -> dict[str, Any]:
    """Run the worker once; kernels: the cache of compiled kernels.

    Raises SystemExit if it did not compute as a worker on a GPU does.
    """
    variables = processes.environment(scene.threads, {"TRITON_CACHE_DIR": str(kernels)})
    begin = time.time()
    ended = processes.run(
        Ours(name="seqembed").command(scene, folder, 0, scene.threads), folder, variables
    )
    whole = time.time() - begin
    log = folder / "worker_0.log"
    gpu_library.check_worker(log, scene.device)
    lines = read_log(log, begin)
    points = {
        name: next((at for at, text in lines if re.match(words, text)), None)
        for name, words in POINTS.items()
    }
    (tokens, seconds), (first, until) = (tokens_and_seconds(p, log) for p in (TOLD, FIRST))
    steady = (tokens - first) / (seconds - until) if tokens > first else None
    return {
        "points": points | {"the process ends": whole},
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "steady_tokens_per_second": steady,
        "seconds_beside_steady": steady and whole - tokens / steady,
        "peak_mb": ended.peak_mb,
        "log": [[round(at, 3), text.replace(f"{folder}/", "")] for at, text in lines],
    }


def measure_floors(scene: Scene, folder: Path, from_disk: bool) -> dict[str, float]:
    variables = processes.environment(scene.threads, {})
    floors = {}
    for name, code in FLOORS.items():
        if "cuda" in code and scene.device == "cpu":
            continue
        begin = time.time()
        ended = processes.run([sys.executable, "-c", code], folder, variables)
        floors[name] = float(ended.stdout) - begin
    weights = weight_files(scene)
    command = [sys.executable, "-c", READ, *map(str, weights)]
    if from_disk:
        floors["files still in the cache"] = drop_from_cache(weights)
        floors["reading the weights from disk"] = float(
            processes.run(command, folder, variables).stdout
        )
    floors["reading the weights"] = float(processes.run(command, folder, variables).stdout)
    sizes = [path.stat().st_size for path in weights]
    return floors | {"bytes of the weights": sum(sizes), "bytes of the largest file": max(sizes)}


def choose_starts(from_disk: bool) -> list[str]:
    """How the worker starts, each time that it runs; the last one may find no time left."""
    return ["cold", *([FROM_DISK] if from_disk else []), "warm"]


def measure_peak(scene: Scene, folder: Path) -> float:
    """The speed of the model's matrix products alone."""
    rows = gpu_library.product_rows(scene.shape, scene.precision)
    return float(Gemm(rows=rows).run(scene, folder)["flops_per_second"])


def measure_worker(scene: Scene, folder: Path, start: str, peak: float) -> dict[str, Any]:
    """The figures of a worker; folder: keeps compiled kernels; peak: what measure_peak returns."""
    if start == FROM_DISK:
        drop_from_cache(weight_files(scene))
    with tempfile.TemporaryDirectory(dir=folder) as own:
        found = run_worker(scene, Path(own), folder / "kernels")
    lengths, steady = scene.lengths(), found["steady_tokens_per_second"]
    flops = scene.shape.flops(lengths) / sum(lengths)
    shares = {"peak_flops_per_second": peak, "of_peak": steady and steady * flops / peak}
    return {"start": start} | shares | found


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--from-disk", action="store_true", help="run from the disk, too")
    options = parse(made)
    scene = open_scene(options)
    common = {"shape": scene.shape_name, "precision": scene.precision, "threads": scene.threads}
    *early, last = choose_starts(options.from_disk)
    with tempfile.TemporaryDirectory(dir=scene.folder) as name:
        folder = Path(name)
        peak = measure_peak(scene, folder)
        for start in early:
            emit("worker", **common, **measure_worker(scene, folder, start, peak))
        emit("start floors", **common, **measure_floors(scene, folder, options.from_disk))
        emit("worker", **common, **measure_worker(scene, folder, last, peak))


if __name__ == "__main__":
    main()
