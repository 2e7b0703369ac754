"""The batch plan: which rows of a shard are computed together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def plan_batches(tokens: NDArray[np.int64], token_budget: int) -> NDArray[np.int64]:
    """Cut the rows of a shard, in their order, into batches of at most `token_budget` tokens.

    A pure function of its arguments, so a restarted worker plans the same batches. A row that
    is over the budget by itself is a batch of its own.

    Args:
        tokens: (N,) tokens of each row, specials included, in processing order.
        token_budget: tokens a batch may hold, at least 1.

    Returns:
        (B+1,) boundaries: batch b holds the rows from boundaries[b] to boundaries[b + 1].
    """
    if token_budget < 1:
        raise ValueError(f"a token budget of {token_budget} holds nothing; give at least 1")
    boundaries, filled = [0], 0
    for row, size in enumerate(tokens.tolist()):
        if filled and filled + size > token_budget:
            boundaries.append(row)
            filled = 0
        filled += size
    if len(tokens):
        boundaries.append(len(tokens))
    return np.array(boundaries, dtype=np.int64)
