"""The batch plan of a shard: which rows are computed together, and in which order."""

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

    A pure function of its arguments, so a restarted worker plans the same batches. A row that
    is over the budget by itself is a batch of its own.

    Args:
        tokens: (N,) tokens of each row, specials included, in processing order; of a row that
            takes several passes, those of its last, which others may join.
        token_budget: tokens a pass may hold, at least 1.
        begins: (N,) rows that take several passes, each the first of its batch; left out, none.

    Returns:
        (B+1,) boundaries: batch b holds the rows from boundaries[b] to boundaries[b + 1].
    """
    if token_budget < 1:
        raise ValueError(f"a token budget of {token_budget} holds nothing; give at least 1")
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
    """The batches of a plan that hold any of `rows`, ascending, (b,) int64."""
    found = np.searchsorted(boundaries, np.asarray(rows, np.int64), side="right") - 1
    return np.unique(found)


def isolate(boundaries: Int64s, suspects: Iterable[int]) -> Int64s:
    """The plan with each suspect's row in a batch of its own."""
    rows = np.array(list(suspects), np.int64)
    return np.union1d(boundaries, [rows, rows + 1])


def put_suspects_first(
    batches: Int64s, boundaries: Int64s, suspects: Mapping[int, Suspect]
) -> Int64s:
    """The batches of an isolated plan, those of suspects first, in the suspects' order.

    Those that ran out of memory come last: where one ends the process, all else is done.
    """
    turns = {
        row: turn + (len(suspects) + 1 if suspect.memory else 0)
        for turn, (row, suspect) in enumerate(suspects.items())
    }
    found = [turns.get(start, len(suspects)) for start in boundaries[batches].tolist()]
    return batches[np.argsort(found, kind="stable")]


def plan_passes(
    boundaries: Int64s, batches: Int64s, passes: Int64s, windows_a_pass: int
) -> tuple[Int64s, Int64s]:
    """How often the model runs: once a batch, more often where its first sequence has many windows.

    Args:
        boundaries: (B+1,) of the plan; batches: (b,) those to compute.
        passes: (N,) of each row. windows_a_pass: of one sequence that go in at once.

    Returns:
        (p,) the batch of each pass, and (p,) the window of its first row that it begins with.
    """
    counts = passes[boundaries[batches]]
    firsts = np.cumsum(counts) - counts
    begins = (np.arange(counts.sum()) - np.repeat(firsts, counts)) * windows_a_pass
    return np.repeat(batches, counts), begins
