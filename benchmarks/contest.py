"""What all peers share: their options, the clock, and the line of JSON that tells of a run."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOKENS_A_BATCH = 4096


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
    return made


def read_sequences(fasta: Path) -> list[str]:
    """The sequences of an input that inputs.py wrote: a line each."""
    return [line for line in fasta.read_text().splitlines() if not line.startswith(">")]


def padded_batches(lengths: Sequence[int], budget: int = TOKENS_A_BATCH) -> list[list[int]]:
    """Numbers of sequences, the longest first; a batch and its padding stay within the budget.

    lengths: tokens of each sequence, specials included.
    """
    batches: list[list[int]] = [[]]
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[batches[-1][0]] > budget:
            batches.append([])
        batches[-1].append(number)
    return batches


def mean_rows(hidden: Tensor, counted: Tensor) -> Tensor:
    """The float32 means, (n, D) on the CPU, of the (n, L, D) rows where `counted` (n, L) is 1."""
    weights = counted.to(hidden.dtype)[..., None]
    return ((hidden * weights).sum(1) / weights.sum(1)).float().cpu()


def race(
    options: argparse.Namespace,
    batches: Iterable[Sequence[int]],
    embed: Callable[[Sequence[int]], Embedded],
) -> None:
    """Time `embed` over all batches of numbers of sequences; save the rows, print the line.

    Rows that are on the CPU have been waited for.
    """
    found: dict[int, np.ndarray] = {}
    tokens = places = 0
    begin = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            embedded = embed(batch)
            found.update(zip(batch, embedded.rows.numpy(), strict=True))
            tokens, places = tokens + embedded.tokens, places + embedded.places
    seconds = time.perf_counter() - begin
    np.save(options.rows, np.stack([found[number] for number in range(len(found))]))
    print(json.dumps({"tokens": tokens, "places": places, "seconds": seconds}))
