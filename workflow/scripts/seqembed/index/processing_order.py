"""Order a shard's sequences for computing: longest first, as far as batches stay full.

A worker takes the sequences in this order, and begins a batch when the token budget is filled.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from seqembed.settings.lengths import LengthPolicy
from seqembed.settings.token_budget import TOKENS

Int64s = NDArray[np.int64]


def arrange(tokens: Int64s, policy: LengthPolicy) -> Int64s:
    """Return the processing order of n sequences: their places in `tokens`, (n,) int64.

    tokens: how many tokens each sequence has, without special tokens, (n,) int64, descending.
    Sequences that together fill a CPU's token budget are neighbours, and so are those that fill a
    GPU's. With a budget that is another multiple of a CPU's, batches are nearly as full.
    """
    read = policy.model_tokens(tokens)
    batches = list(_fill(read.tolist(), policy.last_pass(tokens, TOKENS["cpu"]), TOKENS["cpu"]))
    last = policy.last_pass(tokens, TOKENS["cuda"])
    # Batches that are not quite full count as full, so that they keep their order.
    sizes, lasts = (
        np.array([max(counts[batch].sum(), TOKENS["cpu"]) for batch in batches], np.int64)
        for counts in (read, last)
    )
    order = np.argsort(-sizes, kind="stable")
    larger = _fill(sizes[order].tolist(), lasts[order], TOKENS["cuda"])
    places = (batches[order[place]] for place in chain.from_iterable(larger))
    return np.fromiter(chain.from_iterable(places), np.int64, len(tokens))


def _fill(sizes: list[int], lasts: Int64s, budget: int) -> Iterator[list[int]]:
    """Yield the items 0 to n - 1 in batches: the first item left, then the largest that fit.

    sizes: how much of the budget each item takes, n numbers, descending. lasts: how much each item
    takes instead if it is the first of its batch, (n,) int64.
    """
    ascending = [-size for size in sizes]
    # For an item that is left, its own number; for any other, the number of a later item.
    left = list(range(len(sizes) + 1))

    def first_left(item: int) -> int:
        while left[item] != item:
            # Skip an item, so that the next search takes fewer steps.
            left[item] = left[left[item]]
            item = left[item]
        return item

    first = 0
    while (first := first_left(first)) < len(sizes):
        batch, room = [first], budget - int(lasts[first])
        left[first] = first + 1
        while (item := first_left(bisect_left(ascending, -room))) < len(sizes):
            batch.append(item)
            room -= sizes[item]
            left[item] = item + 1
        yield batch
