"""More ranks than GPUs, at once and again and again: stand-in nodes, real processes, real locks."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import NamedTuple

import pytest
from stand_in_gpus import Machine, leave_after

# 1,008 leases in all.
RANKS, ROUNDS = 8, 126
SPAWN = multiprocessing.get_context("spawn")


class Round(NamedTuple):
    """One lease: the GPU, and when it was wanted, taken and given back, in seconds."""

    gpu: str
    wanted: float
    taken: float
    given: float


def take_turns(root: Path, rank: int, start: float) -> list[Round]:
    machine, found = Machine(root), []
    time.sleep(max(0.0, start - time.monotonic()))
    leave = leave_after(120)
    for _ in range(ROUNDS):
        wanted = time.monotonic()
        with machine.lease("cuda", rank, leave_if_asked=leave) as pin:
            taken = time.monotonic()
            time.sleep(0.002)
            given = time.monotonic()
        found.append(Round(pin["CUDA_VISIBLE_DEVICES"], wanted, taken, given))
    return found


def run_ranks(root: Path) -> list[Round]:
    """All rounds of all ranks, which begin together."""
    start = time.monotonic() + 3
    with ProcessPoolExecutor(RANKS, SPAWN) as pool:
        found = pool.map(take_turns, repeat(root), range(RANKS), repeat(start))
        return [*chain.from_iterable(found)]


def pauses(rounds: list[Round]) -> Iterator[tuple[float, float]]:
    """Between one lease of a GPU and its next: when it was given back, and when taken again."""
    for gpu in {one.gpu for one in rounds}:
        held = sorted((one.taken, one.given) for one in rounds if one.gpu == gpu)
        for (_, given), (taken, _) in pairwise(held):
            yield given, taken


def idle_while_wanted(rounds: list[Round]) -> Iterator[float]:
    """Of each pause, the longest time that one rank waited through it."""
    for given, taken in pauses(rounds):
        yield max(min(taken, one.taken) - max(given, one.wanted) for one in rounds)


@pytest.mark.timing
@pytest.mark.parametrize("count", [2, 5])
def test_no_gpu_is_held_twice_and_none_idles_while_a_rank_waits(count, tmp_path):
    machine = Machine(tmp_path)
    for minor in range(count):
        machine.add(f"0000:{minor:02x}:00.0", minor, f"GPU-{minor}")
    rounds = run_ranks(tmp_path)
    assert {one.gpu for one in rounds} == {f"GPU-{minor}" for minor in range(count)}
    assert all(given <= taken for given, taken in pauses(rounds))
    longest = max(idle_while_wanted(rounds))
    print(f"{count} GPUs, {len(rounds)} leases: idle while wanted for {longest:.3f} s at most")
    assert longest < 1
