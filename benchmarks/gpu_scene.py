"""Make what a part's steps need, once: random weights of a shape, an input, its index.

Everything is kept in the cache folder, and what is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import machine
import speed
from contestants import Scene, program
from inputs import read_sequences, write_input
from shapes import SHAPES

# In which precision weights are stored; fp32 where it is not said, as the real ESM-2 are. ProtT5's
# authors have a file of its encoder in fp16; 15B's 60 GB in fp32 would fill a disk.
STORED = {"t48_15B": "fp16", "prot_t5": "fp16"}


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that all steps have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--shape", choices=SHAPES, required=True)
    made.add_argument("--device", choices=speed.DEVICES, default="cuda", help="(%(default)s)")
    made.add_argument(
        "--precision", choices=("fp16", "bf16", "fp32"), help="by the shape and the device if unset"
    )
    made.add_argument("--cache", type=Path, required=True, help="the folder of models and inputs")
    made.add_argument("--fasta", type=Path, help="sequences; generated where left out")
    made.add_argument("--sequences", type=int, default=1000, help="of the input (%(default)s)")
    made.add_argument("--times", type=int, default=1, help="variants of each (%(default)s)")
    made.add_argument("--threads", type=int, default=machine.cores(), help="(%(default)s)")
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    options = made.parse_args()
    options.precision = options.precision or SHAPES[options.shape].precision(options.device)
    return options


def emit(kind: str, **figures: Any) -> None:
    """Print one finding, a line of JSON, which gpu.py writes to the part's file at once."""
    print(json.dumps({"kind": kind} | figures), flush=True)


def open_scene(options: argparse.Namespace) -> Scene:
    """Return the scene of these options, in a folder of the cache."""
    source = options.fasta.name.partition(".")[0] if options.fasta else "generated"
    name = f"{options.shape}-{source}-{options.sequences}x{options.times}"
    return Scene(
        folder=options.cache.absolute() / name,
        shape_name=options.shape,
        threads=options.threads,
        device=options.device,
        precision=options.precision,
    )


def weight_files(scene: Scene) -> list[Path]:
    """The files of the scene's weights, in order."""
    return sorted((scene.folder / "models/hf").glob("*.safetensors"))


def link_model(model: Path, folder: Path) -> None:
    """Give a folder the model of another one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("models", "model.json"):
        if not (folder / name).exists():
            (folder / name).symlink_to(model / name)


def make_model(options: argparse.Namespace, scene: Scene) -> None:
    precision = STORED.get(scene.shape_name, "fp32")
    folder = scene.folder.parent / f"model-{scene.shape_name}-{precision}"
    command = program(
        "make_model",
        shape=scene.shape_name,
        output=folder / "models",
        device=scene.device,
        precision=precision,
    )
    # The description comes last. Without it an earlier call was stopped; its weights, if they are
    # whole, are not made again.
    if not (folder / "model.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        speed.run_all(scene.at(folder), [[*command, "--no-fair"], speed.prepare_model(folder)])
    if options.fair:
        speed.run_all(scene.at(folder), [command])
    link_model(folder, scene.folder)


def make_input(options: argparse.Namespace, scene: Scene) -> None:
    if (scene.shards(1) / "shard_0.parquet").exists():
        return
    molecule, counts = scene.shape.molecule, {"count": options.sequences, "times": options.times}
    every = 1
    if options.fasta:
        every = max(sum(1 for _ in read_sequences(options.fasta)) // options.sequences, 1)
    write_input(scene.fasta, molecule, options.fasta, every=every, **counts)
    speed.run_all(scene, speed.index_commands(scene, {1}))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--fair", action="store_true", help="make fair-esm's weights, too")
    options = parse(made)
    begin, scene = time.perf_counter(), open_scene(options)
    make_model(options, scene)
    made_model = time.perf_counter()
    make_input(options, scene)
    emit(
        "made",
        shape=scene.shape_name,
        model_seconds=made_model - begin,
        input_seconds=time.perf_counter() - made_model,
        sequences=len(lengths := scene.lengths()),
        tokens=sum(lengths),
    )


if __name__ == "__main__":
    main()
