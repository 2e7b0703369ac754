"""How peers make batches of sequences that are sorted by length."""

from __future__ import annotations

from collections.abc import Sequence

TOKENS_A_BATCH = 4096


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


def packed_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Numbers of sequences, the longest first; a batch's tokens stay within the budget."""
    batches: list[list[int]] = [[]]
    filled = 0
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        if batches[-1] and filled + lengths[number] > budget:
            batches.append([])
            filled = 0
        batches[-1].append(number)
        filled += lengths[number]
    return batches
