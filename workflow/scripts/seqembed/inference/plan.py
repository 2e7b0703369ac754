"""The batch plan of a shard: which rows are computed together, and in which order.

A batch goes through the model in one pass, or in several where its first sequence has more windows
than the token budget holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.failures import Suspect

Int64s = NDArray[np.int64]


def plan_batches(
    tokens: Int64s, token_budget: int, begins: NDArray[np.bool_] | None = None
) -> Int64s:
    """Cut the rows of a shard, in their order, into batches of at most `token_budget` tokens.

    A pure function of its arguments, so a restarted worker plans the same batches. A row that is
    over the budget by itself is a batch of its own.

    Args:
        tokens: (N,) tokens of each row, specials included, in processing order; for a row of
            several passes only those of its last pass, which other rows may join.
        token_budget: the most tokens of a pass.
        begins: (N,) whether a row has several passes, and so begins a batch; None if no row does.

    Returns:
        (B+1,) boundaries: batch b holds the rows from boundaries[b] to boundaries[b + 1].
    """
    boundaries, filled = [0], 0
    first = np.zeros(len(tokens), bool) if begins is None else begins
    for row, (size, begin) in enumerate(zip(tokens.tolist(), first.tolist(), strict=True)):
        if filled and (begin or filled + size > token_budget):
            boundaries.append(row)
            filled = 0
        filled += size
    if len(tokens):
        boundaries.append(len(tokens))
    return np.array(boundaries, dtype=np.int64)


def pending_batches(boundaries: Int64s, rows: Sequence[int]) -> Int64s:
    """Return the (b,) batches of a plan that hold any of `rows`, ascending."""
    found = np.searchsorted(boundaries, np.asarray(rows, np.int64), side="right") - 1
    return np.unique(found)


def isolate(boundaries: Int64s, suspects: Iterable[int]) -> Int64s:
    """Return the boundaries of a plan that has each suspect's row in a batch of its own."""
    rows = np.array(list(suspects), np.int64)
    return np.union1d(boundaries, [rows, rows + 1])


def put_suspects_first(
    batches: Int64s, boundaries: Int64s, suspects: Mapping[int, Suspect]
) -> Int64s:
    """Return the (b,) batches of an isolated plan, those of suspects first, in `suspects`' order.

    Suspects that ran out of memory come last: if one ends the process, all else is done.
    """
    turns = {
        row: turn + 1 if suspect.memory else turn - len(suspects)
        for turn, (row, suspect) in enumerate(suspects.items())
    }
    found = [turns.get(start, 0) for start in boundaries[batches].tolist()]
    return batches[np.argsort(found, kind="stable")]


def plan_passes(
    boundaries: Int64s, batches: Int64s, passes: Int64s, windows_a_pass: int
) -> tuple[Int64s, Int64s]:
    """Split the (b,) batches to compute into their passes.

    boundaries: (B+1,) of the plan. passes: (N,) how many each row takes. windows_a_pass: how many
    windows of one sequence a pass holds. Returns the batch of each pass, (p,), and the window of
    that batch's first row with which the pass begins, (p,).
    """
    counts = passes[boundaries[batches]]
    firsts = np.cumsum(counts) - counts
    begins = (np.arange(counts.sum()) - np.repeat(firsts, counts)) * windows_a_pass
    return np.repeat(batches, counts), begins
