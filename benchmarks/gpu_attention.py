"""Attention alone, in each way to compute it: its speed, how exact it is, and its bits.

Heads and their width are those of a shape, and the lengths of a batch those of an input. Ways that
take biases by distance are measured with them if the shape has them; a T5's are random. `apart` is
the distance from the plain formula in fp64, of the same rounded queries, keys and values, and the
same biases. `equal` counts the sequences whose rows are the same to the bit alone and in company.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from statistics import mean
from typing import Any, NamedTuple

import contest
import gpu_library
import torch
from contestants import Scene
from gpu_encoder import Batch, choose_batches, random_qkv, seconds_of
from gpu_library import Bias, Packing
from gpu_scene import emit, open_scene, parse, parser
from torch import Tensor

SIZE = {"cuda": 16384, "cpu": 512}
PRECISIONS = {"cuda": ("fp16", "fp32", "bf16"), "cpu": ("fp32",)}
# How many batches are timed, and how many sequences of each are compared at most.
BATCHES, WATCHED = 4, 12
# Of the time that the encoder is measured for: there are many ways.
TIMED_SHARE = 0.3
# The most by which a value may differ from the plain formula's: lost keys and wrong biases differ
# by more.
APART = {"fp16": 1e-2, "fp32": 1e-4, "bf16": 5e-2}
# Tiles to try with biases, beside the kernel's own: those of kernels/biased_attention.py.
TILES = {
    "fp16": (
        *((64, 32, 4, 3), (64, 64, 4, 2), (64, 64, 8, 3), (128, 32, 4, 3)),
        *((128, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2)),
    ),
    "fp32": ((32, 32, 4, 2), (64, 32, 4, 2), (64, 64, 4, 2), (64, 64, 8, 2), (128, 32, 8, 2)),
    "bf16": (),
}


class Way(NamedTuple):
    """A way to compute attention.

    prepare: takes a packing and a Bias, or None; returns what computes attention. biased: whether
    it gets the Bias. tiles: of the kernel, None for its own choice. required: whether the
    step fails without it.
    """

    name: str
    prepare: Callable[[Packing, Bias | None], gpu_library.Compute]
    biased: bool
    tiles: Sequence[int] | None = None
    required: bool = True


def choose_ways(scene: Scene, precision: str, bias: Bias | None) -> Iterator[Way]:
    """Yield the ways to compute a shape's attention in a precision, in the order of importance."""
    kernel, on_card = gpu_library.attend_by_kernel, scene.device == "cuda"
    biased = bias is not None
    # On a CPU, Triton's interpreter runs the kernel, if it is asked to.
    runs = gpu_library.has_triton() and (on_card or "TRITON_INTERPRET" in os.environ)
    if runs:
        yield Way("kernel", kernel, biased)
    else:
        reason = "Triton or a GPU is missing"
        emit("left out", shape=scene.shape_name, precision=precision, way="kernel", reason=reason)
    yield Way("by length", gpu_library.attend_by_lengths, biased)
    if on_card and precision != "fp32":
        yield Way("flash, no biases", gpu_library.attend_by_flash, False)
        if bias is not None and bias.slopes is not None:
            yield Way("flash, ALiBi", gpu_library.attend_by_flash, True, required=False)
    if runs and biased:
        yield Way("kernel, no biases", kernel, False)
    for tiles in TILES[precision] if runs and biased else ():
        name = "kernel, {} x {}, {} warps, {} stages".format(*tiles)
        yield Way(name, partial(kernel, tiles=tiles), biased, tiles, required=False)


def attend_plainly(qkv: Tensor, bias: Bias | None) -> Tensor:
    """The rows of one sequence by the plain formula, in fp64; qkv: (length, 3, heads, head_dim)."""
    q, k, v = (x.double().transpose(0, 1) for x in qkv.unbind(1))
    scores = q @ k.mT
    if bias is not None:
        places = torch.arange(len(qkv), device=qkv.device)
        distances = places - places[:, None]
        scores += bias.make(len(qkv)).by_distance[:, distances + len(qkv) - 1]
    return (scores.softmax(-1) @ v).transpose(0, 1)


class Packed(NamedTuple):
    """A batch: its packing and random (T, 3, heads, head_dim), on the device, as a layer has it."""

    packing: Packing
    qkv: Tensor


def pack_random(scene: Scene, lengths: Batch, dtype: torch.dtype) -> Packed:
    qkv = random_qkv(scene, sum(lengths), dtype)
    return Packed(gpu_library.packing_of(lengths, scene.device), qkv)


def measure_speed(
    scene: Scene, way: Way, batches: Sequence[Packed], bias: Bias | None
) -> dict[str, float]:
    """The speed of a way over all batches, for one layer."""
    calls = [(way.prepare(packing, bias), qkv.unbind(1)) for packing, qkv in batches]
    seconds = seconds_of(lambda: [attend(*qkv) for attend, qkv in calls], scene.device, TIMED_SHARE)
    lengths = [b - a for packing, _ in batches for a, b in pairwise(packing.bounds)]
    flops = 4 * scene.shape.attended * sum(n * n for n in lengths)
    return {
        "tokens": sum(lengths),
        "seconds": seconds,
        "tokens_per_second": sum(lengths) / seconds,
        "flops_per_second": flops / seconds,
    }


def measure_rows(way: Way, batches: Sequence[Packed], bias: Bias | None) -> dict[str, float]:
    """How far some sequences' rows are from the plain formula, and whether company changes them."""
    equal, apart, squares = 0, [], []
    for packing, qkv in batches:
        rows = way.prepare(packing, bias)(*qkv.unbind(1))
        bounds = [*pairwise(packing.bounds)]
        for start, stop in bounds[:: -(-len(bounds) // WATCHED)]:
            own, found = qkv[start:stop], rows[start:stop]
            alone = gpu_library.packing_of([stop - start], qkv.device.type)
            equal += torch.equal(way.prepare(alone, bias)(*own.unbind(1)), found)
            exact = attend_plainly(own, bias)
            apart.append(float((found.double() - exact).abs().max()))
            squares.append(float(exact.square().mean()))
    rms = mean(squares) ** 0.5
    return {"compared": len(apart), "equal": equal, "apart": max(apart), "rms": rms}


def try_way(scene: Scene, way: Way, batches: Sequence[Packed], bias: Bias | None) -> dict[str, Any]:
    """The figures of a way; `error` alone, if it cannot compute this."""
    given = bias if way.biased else None
    try:
        # Rows first: their first call compiles.
        found = measure_rows(way, batches, given)
        return found | measure_speed(scene, way, batches, given)
    except Exception as error:  # noqa: BLE001 (compilers and operators fail in many ways)
        return {"error": f"{type(error).__name__}: {error}".partition("\n")[0][:300]}


def is_right(found: dict[str, Any], precision: str) -> bool:
    """Whether a way's figures say that all rows are near to the formula, and of their own bits."""
    if "error" in found:
        return False
    # NaN is not within the bound, either.
    return found["equal"] == found["compared"] and found["apart"] <= APART[precision]


@torch.inference_mode()
def main() -> None:
    options = parse(parser(__doc__))
    torch.set_num_threads(options.threads)
    scene = open_scene(options)
    gpu_library.keep_products_exact()
    lengths = choose_batches(scene, SIZE[scene.device])
    lengths = lengths[:: -(-len(lengths) // BATCHES)]
    bias = gpu_library.bias_of(scene.shape, scene.device)
    bad = []
    for precision in PRECISIONS[scene.device]:
        batches = [pack_random(scene, each, contest.DTYPES[precision]) for each in lengths]
        for way in choose_ways(scene, precision, bias):
            found = try_way(scene, way, batches, bias)
            names = {"way": way.name, "biased": way.biased, "tiles": way.tiles}
            emit("attention", shape=scene.shape_name, precision=precision, **names, **found)
            if way.required and not is_right(found, precision):
                bad.append(f"{precision}, {way.name}")
    if bad:
        raise SystemExit(f"failed, wrong rows, or rows that depend on their neighbours: {bad}")


if __name__ == "__main__":
    main()
