"""How far the rows of two embeddings.h5 files are apart, for the same ids.

Of the rows that either file flags (windowed or truncated) it prints quantiles of the cosine, and of
the distance as a share of the distance between two different sequences of the first file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
SEED = 20260801


def read(path: Path) -> tuple[list[str], NDArray[np.float64], NDArray[np.bool_]]:
    """The ids, the (N, D) rows, and which are flagged."""
    with h5py.File(path, locking=False) as file:
        ids = file["sequence_ids"].asstr()[:].tolist()
        return ids, file["embeddings"][:].astype(np.float64), file["flags"][:] > 0


def cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def typical_distance(rows: NDArray[np.float64]) -> float:
    """The median distance between two different rows, of 10,000 pairs at random."""
    pairs = np.random.default_rng(SEED).integers(0, len(rows), (10_000, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return float(np.median(np.linalg.norm(rows[pairs[:, 0]] - rows[pairs[:, 1]], axis=1)))


def show(name: str, values: NDArray[np.float64]) -> None:
    found = "  ".join(f"{q:.0%} {np.quantile(values, q):.5f}" for q in QUANTILES)
    print(f"{name:28} {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    arguments = parser.parse_args()
    ids, first, flagged = read(arguments.first)
    others, second, also = read(arguments.second)
    if ids != others:
        raise SystemExit("the two files do not hold the same ids in the same order")
    rows = flagged | also if (flagged | also).any() else np.ones(len(ids), bool)
    print(f"{rows.sum():,} of {len(ids):,} rows")
    show("cosine", cosines(first[rows], second[rows]))
    distances = np.linalg.norm(first[rows] - second[rows], axis=1)
    show("distance / typical distance", distances / typical_distance(first))


if __name__ == "__main__":
    main()
