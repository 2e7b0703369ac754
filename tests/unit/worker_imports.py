"""The modules that a real supervisor and its worker import, on the bundled example."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from indexing import make_check, make_shards
from worker_runs import EMBEDDING, embed_command

from seqembed.models.prepare import prepare_model
from seqembed.models.prepared import load_tokenizer, read_prepared

RESOURCES = Path(__file__).parents[2] / "resources"
# The datasets of the example, and their models.
EXAMPLE = {"proteins": "esm2_demo", "contigs": "dnabert_s_demo"}
# What a worker may import beside Python's own modules and those that `import torch` brings.
ALLOWED = {"h5py", "numpy", "psutil", "pyarrow", "safetensors", "seqembed", "tokenizers", "xxhash"}
# pyarrow imports this one where it is there: scikit-learn brings it, and so do some of the extras.
ALLOWED |= {"cloudpickle"}
# These take seconds, and some releases of PyTorch import them for a single call.
SLOW = ("torch._dynamo", "sympy", "torch.distributed.fsdp")
# Each process of the run imports this at its start, and at its end writes down what it imported:
# but for the one that cleans up for multiprocessing, which nobody waits for.
HOOK = """
import atexit, gc, json, os, sys

advise, late = os.posix_fadvise, []

def note_and_advise(*arguments):
    late.append("seqembed.worker.end_status" in sys.modules)
    advise(*arguments)

def write():
    if "seqembed.supervisor" not in sys.modules:
        return
    seen = {"modules": sorted(sys.modules), "advised_first": late[:1] == [False]}
    collector = {"enabled": gc.isenabled(), "frozen": gc.get_freeze_count()}
    with open(f"{os.path.dirname(__file__)}/{os.getpid()}.json", "w") as file:
        json.dump(seen | collector, file)

os.posix_fadvise = note_and_advise
atexit.register(write)
"""


@dataclass(frozen=True)
class Imported:
    """What a process imported, and what it did about the time that this takes.

    advised_first: whether it asked the kernel to read a file ahead before all was imported.
    enabled, frozen: the garbage collector's state at the end.
    """

    modules: set[str]
    advised_first: bool
    enabled: bool
    frozen: int


def embed_example(folder: Path, dataset: str, device: str) -> tuple[Imported, Imported]:
    """Embed a dataset of EXAMPLE as one shard; return what supervisor and worker imported."""
    model = folder / "model.json"
    prepare_model("demo", str(RESOURCES / "models" / EXAMPLE[dataset]), model, logging.getLogger())
    described = read_prepared(model)
    tokenizer = load_tokenizer(described)
    check = make_check("error", described.facts.molecule, tokenizer.letters)
    fasta = RESOURCES / f"example/{dataset}.fasta"
    (shard,) = make_shards(folder, [fasta], 1, check, tokenizer=tokenizer)
    (folder / "hook").mkdir()
    (folder / "hook/sitecustomize.py").write_text(HOOK)
    output = folder / "shards/shard_0.h5"
    command = embed_command(shard, model, output, folder / "log", device=device)
    settings = EMBEDDING | {"long_sequences": "auto"}
    command[command.index("--settings") + 1] = json.dumps(settings)
    environment = os.environ | {"PYTHONPATH": str(folder / "hook")}
    subprocess.run(command, env=environment, check=True)
    processes = [json.loads(path.read_text()) for path in (folder / "hook").glob("*.json")]
    found = [Imported(**process | {"modules": set(process["modules"])}) for process in processes]
    supervisor, worker = sorted(found, key=lambda process: "seqembed.gpu_worker" in process.modules)
    return supervisor, worker


@cache
def modules_after(statement: str) -> frozenset[str]:
    """What a new Python process has imported after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return frozenset(done.stdout.split())


def find_foreign(modules: set[str], allowed: set[str], before: frozenset[str]) -> list[str]:
    """The modules that are neither Python's own, nor in `before`, nor of an allowed package."""
    known = {*sys.stdlib_module_names, *allowed, "__mp_main__", "sitecustomize"}
    new = sorted(modules - before)
    # Python has one module with the platform in its name, and Cython one with its version.
    named = ("_sysconfigdata_", "_cython_", "cython_runtime")
    return [m for m in new if m.split(".")[0] not in known and not m.startswith(named)]


def find_needless(worker: Imported, more: frozenset[str] = frozenset()) -> list[str]:
    """The modules of a worker that are slow, or of no package that is known or one of `more`."""
    torch = modules_after("import torch")
    foreign = find_foreign(worker.modules, {"torch", *ALLOWED, *more}, torch)
    slow = [m for m in worker.modules if any(f"{m}.".startswith(f"{name}.") for name in SLOW)]
    new = [m for m in worker.modules - torch if m.startswith("torch.distributed")]
    return sorted({*foreign, *slow, *new})
