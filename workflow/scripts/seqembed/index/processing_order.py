"""The order in which a shard's sequences are computed: longest first, as far as batches stay full.

A worker cuts it, row after row, into batches of its token budget. No PyTorch is needed.
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
    """Return the processing order of sequences with these tokens, (n,) descending, as (n,) places.

    What fills a CPU's token budget lies together, and so does what fills a GPU's; multiples of the
    CPU's budget are filled nearly as well.
    """
    read = policy.model_tokens(tokens)
    batches = list(_fill(read.tolist(), policy.last_pass(tokens, TOKENS["cpu"]), TOKENS["cpu"]))
    last = policy.last_pass(tokens, TOKENS["cuda"])
    # Nearly full batches count as full, and so keep their order.
    sizes, lasts = (
        np.array([max(counts[batch].sum(), TOKENS["cpu"]) for batch in batches], np.int64)
        for counts in (read, last)
    )
    order = np.argsort(-sizes, kind="stable")
    larger = _fill(sizes[order].tolist(), lasts[order], TOKENS["cuda"])
    places = (batches[order[place]] for place in chain.from_iterable(larger))
    return np.fromiter(chain.from_iterable(places), np.int64, len(tokens))


def _fill(sizes: list[int], lasts: Int64s, budget: int) -> Iterator[list[int]]:
    """Put the numbers 0 to n - 1 into batches: the first one left, then the largest that fit.

    sizes: of n numbers, descending; lasts: (n,) how much of the budget each takes as the first.
    """
    ascending = [-size for size in sizes]
    unused = _Unused(len(sizes))
    first = 0
    while (first := unused.next(first)) < len(sizes):
        batch, room = [first], budget - int(lasts[first])
        unused.drop(first)
        while (place := unused.next(bisect_left(ascending, -room))) < len(sizes):
            batch.append(place)
            room -= sizes[place]
            unused.drop(place)
        yield batch


class _Unused:
    """The numbers 0 to n - 1 that were not dropped; n means none."""

    def __init__(self, count: int) -> None:
        self._after = list(range(count + 1))

    def next(self, number: int) -> int:
        """Return the first number left from `number` on."""
        after = self._after
        while after[number] != number:
            # Shorten the way for the next search.
            after[number] = after[after[number]]
            number = after[number]
        return number

    def drop(self, number: int) -> None:
        self._after[number] = number + 1
