"""Place rows on a map of two dimensions: by principal components, and by UMAP."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# UMAP gets rows of this many principal components: it looks for neighbours, and is faster so.
UMAP_COMPONENTS = 50
UMAP_SEED = 0
# Of the search for principal components: how many more than wanted are looked for, and how often.
SPARE, ROUNDS = 14, 40
# Fewer rows have no neighbourhoods.
FEWEST_FOR_UMAP = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Where n rows are on a map. places: (n, 2) float32. axes: what the axes are called."""

    places: Floats
    axes: tuple[str, str]


def find_components(rows: Floats, count: int) -> tuple[Floats, Floats]:
    """Return n rows in their first `count` principal components, and the variance each explains.

    rows: (n, D). Returns (n, count) float32, and (count,) shares of the variance of all rows. A
    component that is not there, because there are fewer rows or dimensions, is 0. Each component's
    sign makes its largest weight positive, so that the same rows give the same map.
    """
    places, shares = np.zeros((len(rows), count), np.float32), np.zeros(count, np.float32)
    if not rows.size:
        return places, shares
    centred = rows - rows.mean(0, dtype=np.float64).astype(np.float32)
    # Principal components are eigenvectors of the covariance; float64, as small ones are wanted.
    values, vectors = _find_largest((centred.T @ centred).astype(np.float64), count)
    total = float(np.einsum("nd,nd->", centred, centred, dtype=np.float64))
    # What is left of equal rows is rounding, of about 1e-7 of a value; and what is left of fewer
    # rows than components, of about 1e-7 of the largest eigenvalue.
    least = 1e-12 * float(np.einsum("nd,nd->", rows, rows, dtype=np.float64))
    kept = values > max(least, 1e-6 * float(values[0]))
    vectors = vectors[:, kept]
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
    found = vectors.shape[1]
    places[:, :found] = centred @ vectors.astype(np.float32)
    shares[:found] = values[kept] / total if total else 0
    return places, shares


def _find_largest(
    symmetric: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the `count` largest eigenvalues of a matrix (D, D), and their vectors, (D, count).

    By subspace iteration with more vectors than are wanted: all eigenvalues of a wide model would
    take a minute. (Halko et al. 2011, doi:10.1137/090771806, algorithm 4.4)
    """
    wanted = min(len(symmetric), count + SPARE)
    basis = np.random.default_rng(0).standard_normal((len(symmetric), wanted))
    for _ in range(ROUNDS):
        basis, _triangle = np.linalg.qr(symmetric @ basis)
    values, turned = np.linalg.eigh(basis.T @ symmetric @ basis)
    return values[::-1][:count], (basis @ turned)[:, ::-1][:, :count]


def lay_out(rows: Floats) -> Mapping[str, Layout]:
    """Return the maps of n rows, (n, D), by name: PCA, and UMAP if it is installed."""
    places, shares = find_components(rows, max(2, UMAP_COMPONENTS))
    first, second = (f"PC {number + 1} ({share:.1%})" for number, share in enumerate(shares[:2]))
    layouts = {"PCA": Layout(places=places[:, :2], axes=(first, second))}
    if has_umap() and len(rows) >= FEWEST_FOR_UMAP and shares[0] > 0:
        layouts["UMAP"] = Layout(places=_run_umap(places), axes=("UMAP 1", "UMAP 2"))
    return layouts


def has_umap() -> bool:
    """Whether the extra `umap` is installed."""
    return find_spec("umap") is not None


def _run_umap(places: Floats) -> Floats:
    """Return (n, 2) places by UMAP of (n, d) principal components, the same each time."""
    with warnings.catch_warnings():
        # UMAP says that a seed allows one thread only, which is meant.
        warnings.simplefilter("ignore")
        # Imported here: it compiles for seconds.
        from umap import UMAP

        # Its spectral beginning fails on some data.
        umap = UMAP(random_state=UMAP_SEED, n_jobs=1, init="pca")
        made: Any = umap.fit_transform(places)
    return np.asarray(made, np.float32)
