"""Look for rows that are nearly equal although their sequences differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqembed.report.sample import SEED, Sample
from seqembed.storage.digests import first_rows

COMPARED = 5_000
# Rows whose cosine is at least this, once the mean of all rows is taken away, count as nearly
# equal; without that, the rows of most models have cosines near 1.
NEAR = 0.99
NAMED = 10
_AT_ONCE = 1_024


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The row that is nearest to each of n rows of different sequences.

    cosines: of each row and its nearest, the mean of all rows taken away, (n,) float32. pairs: the
    ids, lengths and cosine of the nearest pairs at NEAR or above, at most NAMED.
    """

    cosines: NDArray[np.float32]
    pairs: list[tuple[str, int, str, int, float]]

    @property
    def near(self) -> int:
        """How many rows have a nearest row at NEAR or above."""
        return int((self.cosines >= NEAR).sum())


def find_neighbours(sample: Sample) -> Neighbours | None:
    """Compare up to COMPARED rows of different sequences; None if fewer than two differ."""
    chosen = np.unique(first_rows(sample.digests))
    if len(chosen) > COMPARED:
        chosen = np.sort(np.random.default_rng(SEED).choice(chosen, COMPARED, replace=False))
    rows = sample.rows[chosen]
    if len(rows) < 2 or (rows == rows[0]).all():
        return None
    rows = rows - rows.mean(0, dtype=np.float64).astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    cosines, nearest = np.empty(len(rows), np.float32), np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _AT_ONCE):
        found = rows[start : start + _AT_ONCE] @ rows.T
        places = np.arange(len(found))
        found[places, start + places] = -2
        nearest[start : start + len(found)] = found.argmax(1)
        cosines[start : start + len(found)] = found.max(1)
    return Neighbours(cosines=cosines.clip(-1, 1), pairs=_name(sample, chosen, nearest, cosines))


def _name(
    sample: Sample,
    chosen: NDArray[np.int64],
    nearest: NDArray[np.int64],
    cosines: NDArray[np.float32],
) -> list[tuple[str, int, str, int, float]]:
    pairs: dict[tuple[int, int], float] = {}
    for place in np.argsort(-cosines, kind="stable").tolist():
        if cosines[place] < NEAR or len(pairs) == NAMED:
            break
        first, second = sorted((place, int(nearest[place])))
        pairs[int(chosen[first]), int(chosen[second])] = min(1.0, float(cosines[place]))
    return [
        (sample.ids[a], int(sample.lengths[a]), sample.ids[b], int(sample.lengths[b]), cosine)
        for (a, b), cosine in pairs.items()
    ]
