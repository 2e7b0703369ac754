"""Measure one part of what a GPU shows, in a few minutes: `make gpu PART=speed`.

A part is a list of steps, the important ones first. Each step is a program of its own, under its
own time limit, and under the part's. A step that fails or is stopped does not stop the part. What a
step finds goes to the part's JSON file at once, and all that it prints to the part's log.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine
from gpu_steps import Report, Step, run_steps
from shapes import SHAPES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PART_SECONDS = 180
# By how much the limits, which are for a card, are multiplied: a dry run on a CPU is slower.
SLACK = {"cuda": 1, "cpu": 4}
# The step that makes models and inputs.
MAKE = "scene"
# As the Slurm profile gives each GPU.
CORES = 4
# Per shape: how many sequences the input has, and how many variants of each, so that a run lasts.
INPUTS = {
    "speed": {
        "t33_650M": (5000, 1),
        "t6_8M": (8000, 5),
        "t12_35M": (8000, 5),
        "dnabert_s": (8000, 1),
        "esmc_300m": (5000, 1),
        "prot_t5": (2500, 1),
        "ankh_large": (2500, 1),
    },
    "peers": {
        "t33_650M": (1200, 1),
        "t12_35M": (1200, 5),
        "t6_8M": (1200, 5),
        "dnabert_s": (800, 1),
        "esmc_300m": (1200, 2),
        "prot_t5": (600, 1),
        "ankh_large": (600, 1),
    },
    # Those of `speed`, which are there already.
    "attention": {
        "dnabert_s": (8000, 1),
        "t33_650M": (5000, 1),
        "prot_t5": (2500, 1),
        "ankh_large": (2500, 1),
    },
    "bits": {
        "t33_650M": (2000, 1),
        "dnabert_s": (2000, 1),
        "esmc_300m": (2000, 1),
        "prot_t5": (1000, 1),
        "ankh_large": (1000, 1),
        # A bucket's first batch has no CUDA graph: here buckets repeat, in a third of it too.
        "t6_8M": (8000, 1),
    },
    "large": {"t36_3B": (1000, 1), "t48_15B": (300, 1)},
}
T5 = {"prot_t5", "ankh_large"}
# Measured only if they are named: the other shapes fill the time of a part.
NAMED_ONLY = {
    "speed": {"esmc_300m", *T5},
    "attention": T5,
    "peers": {"esmc_300m", *T5},
    "bits": {"dnabert_s", "esmc_300m", "t6_8M", *T5},
    "large": {"t48_15B"},
}
SMALL_INPUT = (24, 1)  # of every other shape
# fp32 is many times slower: its runs through the entry programs have a smaller input.
SHORT_INPUT = ("--sequences", "400")
# The shape whose speed is measured in fp32, too.
IN_FP32 = "t33_650M"


class Part:
    """The options that the steps of a part share, as words of a command."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.name, self.options = options.part, options
        self.inputs = INPUTS.get(options.part, {})
        named = NAMED_ONLY.get(options.part, set())
        self.shapes = options.shapes or [s for s in self.inputs if s not in named]

    def step(self, program: str, shape: str, seconds: int, *words: str) -> Step:
        sequences, times = self.inputs.get(shape, SMALL_INPUT)
        given = {"shape": shape, "device": self.options.device, "cache": self.options.cache}
        given |= {"sequences": sequences, "times": times, "threads": len(cores())}
        if self.options.fasta and SHAPES[shape].molecule == "protein":
            given["fasta"] = self.options.fasta
        pairs = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        name = " ".join([program.removeprefix("gpu_"), shape, *words])
        command = [sys.executable, str(HERE / f"{program}.py"), *pairs, *words]
        return Step(name, command, seconds * SLACK[self.options.device])


def tests(part: Part) -> list[Step]:
    junit = part.options.results / "gpu_tests.xml"
    words = ["--junit", str(junit), "--device", part.options.device]
    command = [sys.executable, str(HERE / "gpu_tests.py"), *words]
    return [Step("tests", command, 170)]


def per_shape(part: Part, shapes: Sequence[str], *plan: tuple[Any, ...]) -> list[Step]:
    """The steps of a plan for each of the shapes.

    plan: of each step, the program, its limit in seconds, and words of its command.
    """
    return [
        part.step(program, shape, seconds, *words)
        for shape in shapes
        for program, seconds, *words in plan
    ]


def speed(part: Part) -> list[Step]:
    plan = ("gpu_scene", 60), ("gpu_encoder", 60), ("gpu_timeline", 100)
    exact = [shape for shape in part.shapes if shape == IN_FP32]
    fp32 = "gpu_encoder", 60, "--precision", "fp32"
    return per_shape(part, part.shapes, *plan) + per_shape(part, exact, fp32)


def attention(part: Part) -> list[Step]:
    return per_shape(part, part.shapes, ("gpu_scene", 60), ("gpu_attention", 100))


def peers(part: Part) -> list[Step]:
    fair_shapes = [shape for shape in part.shapes if SHAPES[shape].family == "esm2"]
    fair = ("gpu_scene", 60, "--fair"), ("gpu_peers", 110, "--fair-esm")
    steps = per_shape(part, part.shapes, ("gpu_scene", 60), ("gpu_peers", 150))
    return steps + per_shape(part, fair_shapes, *fair)


def bits(part: Part) -> list[Step]:
    on_card = part.options.device == "cuda"
    compositions = ("gpu_bits", 60, "--check", "compositions", "--precision")
    # What is in fp32 comes last, and `--only fp32` chooses it: with ESM-2 650M it fills a part.
    entries = ("gpu_entries", 120, "--precision", "fp32", *SHORT_INPUT)
    return per_shape(
        part,
        part.shapes,
        ("gpu_scene", 60),
        *((*compositions, name) for name in ("fp16", "bf16") if on_card),
        ("gpu_bits", 80, "--check", "accuracy"),
        ("gpu_entries", 120),
        (*compositions, "fp32"),
        *((("gpu_scene", 60, *SHORT_INPUT), entries) if on_card else ()),
    )


def large(part: Part) -> list[Step]:
    # Making the weights of the largest shape takes a part of its own; the next one finds them.
    plan = ("gpu_scene", 170), ("gpu_encoder", 90), ("gpu_timeline", 170, "--from-disk")
    return per_shape(part, part.shapes, *plan)


PARTS: dict[str, Callable[[Part], list[Step]]] = {
    "tests": tests,
    "speed": speed,
    "attention": attention,
    "peers": peers,
    "bits": bits,
    "large": large,
}


def chosen_steps(part: Part) -> list[Step]:
    """The steps of a part that `--only` leaves; models and inputs are made all the same."""
    only = part.options.only
    steps = PARTS[part.name](part)
    return [step for step in steps if not only or only in step.name or step.name.startswith(MAKE)]


def cores() -> Sequence[int]:
    """The first CORES of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))[:CORES]


def card_name(device: str) -> str:
    """The card's name as its driver has it; for a dry run on a CPU, `cpu`."""
    if device == "cpu":
        return "cpu"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=30)
        return said.stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown card"


def install_wheels(wheels: Path, target: str) -> str | None:
    """Install the wheels that came along into a folder; return pip's error, None if there is none.

    Needs no network. Without the wheels, steps that need them fail, and say so.
    """
    found = sorted(map(str, wheels.glob("*.whl")))
    if not found:
        return None
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    words = [*pip, "--no-compile", "--no-cache-dir", "--target", target, *found]
    ended = subprocess.run(words, stderr=subprocess.PIPE, text=True)
    return ended.stderr[-2000:] if ended.returncode else None


def add_to_path(*folders: str) -> None:
    """Let the steps import from these folders."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*folders, before]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cache = (
        os.environ.get("SEQEMBED_GPU_CACHE")
        or f"{tempfile.gettempdir()}/seqembed-gpu-{os.getuid()}"
    )
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(%(default)s)")
    shapes = "of models; the part's own where left out"
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, metavar="SHAPE", help=shapes)
    only = "run no steps but those that have this word in their names, and what these need"
    parser.add_argument("--only", metavar="WORD", help=only)
    parser.add_argument("--fasta", type=Path, help="proteins; generated where left out")
    results = "the folder that gets the JSON file and the log (%(default)s)"
    parser.add_argument("--results", type=Path, default=HERE / "results", help=results)
    models = "the folder that keeps models and inputs (%(default)s)"
    parser.add_argument("--cache", type=Path, default=Path(cache), help=models)
    parser.add_argument("--wheels", type=Path, default=ROOT / ".wheels", help="(%(default)s)")
    return parser.parse_args()


def command(options: argparse.Namespace) -> str:
    """The command that measures the same again, without this machine's paths."""
    values = {"PART": options.part, "SHAPES": " ".join(options.shapes or ()), "ONLY": options.only}
    words = [f"{name}={shlex.quote(value)}" for name, value in values.items() if value]
    return " ".join(["make gpu", *words])


def file_stem(options: argparse.Namespace, card: str, date: str) -> str:
    """The name of the part's files, in letters that every file system takes."""
    words = [card.lower(), options.part, *(options.shapes or ()), options.only or "", date]
    return "-".join(re.sub(r"[^\w-]+", "_", word).strip("_-") for word in words if word)


def stop(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def main() -> None:
    begin, options = time.monotonic(), parse()
    signal.signal(signal.SIGTERM, stop)
    part, card = Part(options), card_name(options.device)
    options.results.mkdir(parents=True, exist_ok=True)
    options.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    if part.name != "tests":
        os.sched_setaffinity(0, cores())
    date = time.strftime("%Y-%m-%d")
    facts = {
        "part": part.name,
        "date": date,
        "device": options.device,
        "device_name": card,
        "command": command(options),
    }
    with tempfile.TemporaryDirectory() as target:
        facts["wheels_error"] = install_wheels(options.wheels, target)
        add_to_path(target, str(ROOT / "workflow/scripts"))
        facts["machine"] = machine.describe_machine()
        report = Report(options.results / f"{file_stem(options, card, date)}.json", facts)
        run_steps(chosen_steps(part), report, begin + PART_SECONDS * SLACK[options.device])
    print(f"{report.path}: {report.summary()}")
    sys.exit(not report.all_done)


if __name__ == "__main__":
    main()
