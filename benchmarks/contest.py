"""What all peers share: their options, the clock, and the line of JSON that tells of a run."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from batching import TOKENS_A_BATCH
from torch import Tensor

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# `--tune` times every TUNED_SHARE-th batch at each budget, and at least TUNED_BATCHES of them.
TUNED_SHARE, TUNED_BATCHES = 8, 2


class Embedded(NamedTuple):
    """(n, D) pooled rows of a batch; its tokens, and its places: tokens and padding."""

    rows: Tensor
    tokens: int
    places: int


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--model", type=Path, required=True)
    made.add_argument("--fasta", type=Path, required=True)
    made.add_argument("--rows", type=Path, required=True, help="gets the (N, D) rows, .npy")
    made.add_argument("--threads", type=int, required=True)
    made.add_argument("--device", required=True)
    made.add_argument("--precision", choices=DTYPES, required=True)
    made.add_argument("--budget", type=int, default=TOKENS_A_BATCH, help="tokens of a batch")
    tune = "instead of a race: time a part of the input at each of these budgets"
    made.add_argument("--tune", type=int, nargs="+", metavar="BUDGET", help=tune)
    return made


def read_sequences(fasta: Path) -> list[str]:
    """The sequences of an input that inputs.py wrote: a line each."""
    return [line for line in fasta.read_text().splitlines() if not line.startswith(">")]


def mean_rows(hidden: Tensor, counted: Tensor) -> Tensor:
    """The float32 means, (n, D) on the CPU, of the (n, L, D) rows where `counted` (n, L) is 1."""
    weights = counted.to(hidden.dtype)[..., None]
    # Half precision has no number for every count of residues.
    sums = (hidden * weights).sum(1, dtype=torch.float32)
    return (sums / counted.sum(1)[:, None]).cpu()


def race(
    options: argparse.Namespace,
    plan: Callable[[int], Sequence[Sequence[int]]],
    embed: Callable[[Sequence[int]], Embedded],
    facts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Time `embed` over all batches, save the rows, print the line; or time budgets (`--tune`).

    plan: returns the batches, of numbers of sequences, for a budget in tokens. Rows that are on the
    CPU have been waited for. facts: what else the line says. The line's `first`: the tokens of the
    first batch, and when it was done.
    """
    if options.tune:
        speeds = {str(budget): tune(plan(budget), embed) for budget in options.tune}
        print(json.dumps({"budgets": speeds} | facts))
        return
    batches = plan(options.budget)
    found: dict[int, np.ndarray] = {}
    first: tuple[int, float] | None = None
    tokens = places = 0
    begin = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            embedded = embed(batch)
            found.update(zip(batch, embedded.rows.numpy(), strict=True))
            tokens, places = tokens + embedded.tokens, places + embedded.places
            first = first or (tokens, time.perf_counter() - begin)
    seconds = time.perf_counter() - begin
    np.save(options.rows, np.stack([found[number] for number in range(len(found))]))
    figures = {"tokens": tokens, "places": places, "seconds": seconds, "first": first}
    print(json.dumps(figures | facts))


@torch.inference_mode()
def tune(
    batches: Sequence[Sequence[int]], embed: Callable[[Sequence[int]], Embedded]
) -> float | None:
    """Return the tokens a second of batches from the whole input; None if memory runs out."""
    step = max(len(batches) // max(len(batches) // TUNED_SHARE, TUNED_BATCHES), 1)
    chosen = batches[step // 2 :: step]
    try:
        # The first batch of a size also pays for what a device prepares once.
        embed(chosen[0])
        begin = time.perf_counter()
        tokens = sum(embed(batch).tokens for batch in chosen)
    except torch.OutOfMemoryError:
        return None
    return tokens / (time.perf_counter() - begin)
