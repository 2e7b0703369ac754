"""CUDA graphs of a small model: the encoder's speed with them and without, and what they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gemm
import gpu_library
import torch

# Takes a function and the device; returns the mean seconds of a call.
Clock = Callable[[Callable[[], object], str], float]


def measure_graphs(
    model: Any, packed: Sequence[tuple[Any, Any]], tokens: int, device: str, seconds_of: Clock
) -> dict[str, float]:
    """Compute the batches with graphs and without; return speeds, and what graphs take.

    packed: the tokens and packing of each batch. tokens: how many they have, without the dummies'.

    The memory is all that the card has less of: the memory of a pass that the graphs share, what
    they read and write, and what CUDA itself keeps of each. On a CPU the figures mean nothing.
    """
    without = seconds_of(lambda: [model(*each) for each in packed], device)
    captures: list[float] = []
    graphs = gpu_library.graphs_of(model, packed[0][1].total, lambda c: timed(c, device, captures))
    before = free_memory(device)
    # A bucket's first batch has no graph, so the second round captures what is left.
    for _ in range(2):
        for each in packed:
            graphs(*each)
    gemm.synchronise(device)
    taken = before - free_memory(device)
    within = seconds_of(lambda: [graphs(*each) for each in packed], device)
    if not gpu_library.are_used(graphs):
        raise SystemExit("the graphs failed; the log says why")
    return {
        "batches": len(packed),
        "tokens": tokens,
        "tokens_per_second": tokens / within,
        "tokens_per_second_without": tokens / without,
        "buckets": len(captures),
        "capture_seconds": sum(captures),
        "memory_mb": taken / 1e6,
    }


def timed(capture: Callable[[Any], Any], device: str, seconds: list[float]) -> Callable[[Any], Any]:
    """Return a capture that adds the seconds of each call to a list."""

    def call(work: Callable[[], object]) -> Any:
        gemm.synchronise(device)
        begin = time.perf_counter()
        launch = capture(work)
        gemm.synchronise(device)
        seconds.append(time.perf_counter() - begin)
        return launch

    return call


def free_memory(device: str) -> int:
    """Bytes that no process holds on the card; 0 on a CPU."""
    if device == "cpu":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]
