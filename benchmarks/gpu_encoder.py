"""The encoder alone: its speed at several sizes of batches, where its time goes, and its floors.

The floors are what a step takes at least: the matrix products' own time, attention alone, and the
bytes of all other steps, each of which reads and writes its values once, at the speed of a copy.
All are measured in this process, over the same batches.
"""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import contest
import gemm
import gpu_graphs
import gpu_library
import torch
from contestants import Scene
from gpu_scene import emit, open_scene, parse, parser, weight_files
from shapes import Shape
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Batch = Sequence[int]  # the lengths in tokens of its sequences
SIZES = {"cuda": (4096, 8192, 16384, 32768), "cpu": (512,)}
# What one pass over the batches computes, how long passes are timed, and what is copied.
FLOPS = {"cuda": 3.5e14, "cpu": 1e9}
FP32_SHARE = 0.1  # of FLOPS: a card is many times slower in fp32
MOST_TOKENS = 524_288
SECONDS = {"cuda": 1.0, "cpu": 0.05}
COPIED = {"cuda": 1 << 30, "cpu": 1 << 22}
# Kernels by their names, on a CPU PyTorch's operations. The first group that fits counts: names of
# attention kernels, too, hold "cutlass" and "splitk".
GROUPS = {
    "attention": r"attention|attend|flash|fmha|softmax",
    "products": r"gemm|cutlass|nvjet|cublas|xmma|splitk|addmm|aten::mm\b",
    "rotary": r"rotary|rotat",
    "norms and residuals": r"norm",
    # PyTorch computes relu by its clamp.
    "activation": r"gelu|geglu|silu|swiglu|clamp",
    "elementwise, not fused": r"elementwise|aten::(add|sub|mul|copy|cos|sin|neg|cat)",
}


def choose_batches(scene: Scene, size: int) -> list[Batch]:
    """Batches of at most `size` tokens as a worker makes them, from the whole of the input."""
    lengths = scene.lengths()
    batches = [lengths[a:b] for a, b in gpu_library.cut_batches(lengths, size)]
    a_token = scene.shape.flops([350]) / 350
    flops = FLOPS[scene.device] * (FP32_SHARE if scene.precision == "fp32" else 1)
    tokens = min(flops / a_token, MOST_TOKENS)
    step = max(len(batches) // max(round(tokens / size), 2), 1)
    return batches[step // 2 :: step]


def seconds_of(work: Callable[[], object], device: str, share: float = 1.0) -> float:
    """The mean seconds of a call, which is called for a while, after once unmeasured.

    share: of the usual while.
    """
    work()
    gemm.synchronise(device)
    calls, begin = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begin) < share * SECONDS[device] or not calls:
        work()
        gemm.synchronise(device)
        calls += 1
    return seconds / calls


def random_batch(scene: Scene, model: Any, batch: Batch) -> tuple[Any, Any]:
    """The tokens and the packing of random sequences of a batch's lengths, on the device."""
    family = scene.shape.family
    sequences = [gpu_library.random_sequence(n, n, family) for n in batch]
    return gpu_library.pack(sequences, model)


def encode_all(scene: Scene, model: Any, batches: Sequence[Batch]) -> Callable[[], object]:
    """One pass of the model over all batches, which are on the device already."""
    packed = [random_batch(scene, model, batch) for batch in batches]
    return lambda: [model(*each) for each in packed]


def speed_of(shape: Shape, batches: Sequence[Batch], seconds: float) -> dict[str, float]:
    lengths = [length for batch in batches for length in batch]
    return {
        "batches": len(batches),
        "tokens": sum(lengths),
        "seconds": seconds,
        "tokens_per_second": sum(lengths) / seconds,
        "flops_per_second": shape.flops(lengths) / seconds,
    }


def profile_groups(work: Callable[[], object], device: str) -> tuple[dict[str, float], list[Any]]:
    """The seconds of each group of kernels in one call, and the kernels that took most."""
    activities = [ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU]
    # PyTorch 2.11 warns if events are not kept.
    with profile(activities=activities, acc_events=True) as seen:
        work()
        gemm.synchronise(device)
    kernels = [(event.key, own_seconds(event, device)) for event in seen.key_averages()]
    groups = dict.fromkeys([*GROUPS, "rest"], 0.0)
    for name, seconds in kernels:
        groups[group_of(name)] += seconds
    kernels.sort(key=lambda kernel: -kernel[1])
    return groups, [[name[:100], seconds] for name, seconds in kernels[:20]]


def own_seconds(event: Any, device: str) -> float:
    if device == "cpu":
        return event.self_cpu_time_total / 1e6
    return event.self_device_time_total / 1e6 if event.device_type == DeviceType.CUDA else 0.0


def group_of(kernel: str) -> str:
    fitting = (name for name, words in GROUPS.items() if re.search(words, kernel, re.IGNORECASE))
    return next(fitting, "rest")


def random_qkv(scene: Scene, tokens: int, dtype: torch.dtype) -> Tensor:
    """Queries, keys and values as a layer has them, (tokens, 3, heads, head_dim), on the device."""
    size = (tokens, 3, scene.shape.heads, scene.shape.head_dim)
    generator = torch.Generator(scene.device).manual_seed(tokens)
    qkv = torch.randn(size, device=scene.device, generator=generator)
    qkv[:, 0] *= size[-1] ** -0.5
    return qkv.to(dtype)


def attention_seconds(scene: Scene, model: Any, batches: Sequence[Batch]) -> float:
    """The seconds of attention alone in all layers, in one pass over the batches."""
    shape, dtype = scene.shape, contest.DTYPES[scene.precision]
    calls = []
    for batch in batches:
        tokens, packing = random_batch(scene, model, batch)
        qkv = random_qkv(scene, len(tokens), dtype)
        calls.append((gpu_library.attention_alone(model, packing), qkv))
    one_layer = seconds_of(lambda: [attend(qkv) for attend, qkv in calls], scene.device)
    return one_layer * shape.layers


def fused_bytes(shape: Shape, tokens: int, itemsize: int) -> dict[str, int]:
    """The bytes that the steps between products and attention read and write at least.

    Rotary turns an ESM's queries and keys in place. A residual is added in the norm that follows
    it: before a protein model's products, where the sum is also written, and after DNABERT-S's. The
    sum of a T5 is float32. ESM C's norms of queries and keys are in place, too. An activation reads
    what a product wrote, two halves if it is gated, and writes what the next one reads.
    """
    layers, protein = tokens * shape.layers, shape.molecule == "protein"
    rows = 2 * (4 if protein else 3) + (4 if shape.family == "esmc" else 0)
    wider = 2 * 2 * (4 - itemsize) if shape.t5 else 0
    return {
        "rotary": 4 * shape.width * itemsize * layers if protein and not shape.t5 else 0,
        "norms and residuals": (rows * itemsize + wider) * shape.width * layers,
        "activation": (3 if shape.gated else 2) * shape.ffn_width * itemsize * layers,
    }


def copy_speed(device: str) -> float:
    """Bytes read and written a second by a copy within the device's memory."""
    source = torch.randint(256, (COPIED[device],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / seconds_of(lambda: target.copy_(source), device)


def measure_floors(
    scene: Scene, model: Any, batches: Sequence[Batch], work: Callable[[], object]
) -> dict[str, Any]:
    groups, kernels = profile_groups(work, scene.device)
    tokens = sum(map(sum, batches))
    itemsize = contest.DTYPES[scene.precision].itemsize
    copied, sizes = copy_speed(scene.device), fused_bytes(scene.shape, tokens, itemsize)
    floors = {
        "products": groups["products"],
        "attention": attention_seconds(scene, model, batches),
        **{name: size / copied for name, size in sizes.items()},
    }
    encoder = seconds_of(work, scene.device)
    return {
        "tokens": tokens,
        "kernel_seconds": groups,
        "kernels": kernels,
        "copy_bytes_per_second": copied,
        "floors": floors,
        "encoder_seconds": encoder,
        "floors_over_encoder": sum(floors.values()) / encoder,
    }


def measure_memory(scene: Scene, model: Any, batches: Sequence[Batch]) -> dict[str, float]:
    """What a pass over the largest batch takes on the card beside the weights and the tokens.

    The largest sum of what PyTorch's allocator hands out, for each row of the products: a batch is
    filled up to whole blocks. Beside it, the estimate that a worker logs.
    """
    tokens, packing = random_batch(scene, model, max(batches, key=sum))
    # The first call also takes what a process keeps, such as the products' workspace.
    model(tokens, packing)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model(tokens, packing)
    itemsize = contest.DTYPES[scene.precision].itemsize
    return {
        "tokens": len(tokens),
        "bytes_a_token": (torch.cuda.max_memory_allocated() - before) / len(tokens),
        "estimated_bytes_a_token": gpu_library.activation_bytes(scene.shape, 1, itemsize),
    }


def measure_graphs(scene: Scene, model: Any, batches: Sequence[Batch]) -> dict[str, float]:
    packed = [random_batch(scene, model, batch) for batch in batches]
    tokens = sum(map(sum, batches))
    return gpu_graphs.measure_graphs(model, packed, tokens, scene.device, seconds_of)


def peak_of_host() -> float:
    """The most memory in MB that this process has held so far: VmHWM.

    Counted are its own memory, libraries, and the pages of the weights' files that it has mapped:
    the kernel can drop the latter, if memory is short.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def load_model(scene: Scene) -> tuple[Any, dict[str, float]]:
    """The model, and what loading it takes: seconds, and memory of the host."""
    sizes = [path.stat().st_size for path in weight_files(scene)]
    before, begin = peak_of_host(), time.perf_counter()
    model = gpu_library.load_encoder(scene.folder / "model.json", scene.precision, scene.device)
    gemm.synchronise(scene.device)
    return model, {
        "seconds": time.perf_counter() - begin,
        "peak_mb": peak_of_host(),
        "peak_mb_before": before,
        "files": len(sizes),
        "files_mb": sum(sizes) / 1e6,
        "largest_file_mb": max(sizes) / 1e6,
    }


def measure_peak(scene: Scene, rows: int) -> float:
    dtype = contest.DTYPES[scene.precision]
    if scene.precision == "fp32":
        gemm.keep_fp32(scene.device)
    return mean(gemm.measure_all(scene.shape, [rows], scene.device, dtype).values())


@torch.inference_mode()
def main() -> None:
    options = parse(parser(__doc__))
    torch.set_num_threads(options.threads)
    scene = open_scene(options)
    model, loading = load_model(scene)
    own = gpu_library.product_rows(scene.shape, scene.precision)
    common = {"shape": scene.shape_name, "precision": scene.precision, "own_rows": own}
    emit("loading", **common, **loading)
    sizes = SIZES[scene.device]
    first = own if own in sizes else sizes[-1]
    for size in [first, *(other for other in sizes if other != first)]:
        # Beside each run: a card's clock is not the same all the time.
        peak = measure_peak(scene, own)
        batches = choose_batches(scene, size)
        with gpu_library.products_of(size):
            work = encode_all(scene, model, batches)
            found = speed_of(scene.shape, batches, seconds_of(work, scene.device))
            share = found["flops_per_second"] / peak
            emit("encoder", **common, rows=size, **found, peak_flops_per_second=peak, of_peak=share)
            if scene.device == "cuda":
                emit("memory", **common, rows=size, **measure_memory(scene, model, batches))
            if size == first:
                emit("floors", **common, rows=size, **measure_floors(scene, model, batches, work))
    if scene.device == "cpu" or gpu_library.has_graphs(model):
        emit("graphs", **common, **measure_graphs(scene, model, choose_batches(scene, first)))


if __name__ == "__main__":
    main()
