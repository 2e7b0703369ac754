"""Check the attributes, values, ids and digests of an HDF5 file; no other file is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ConfigError, ShardError
from seqembed.flags import FP32_RETRY, TRUNCATED, WINDOWED
from seqembed.results.reader import SLAB_ROWS, EmbeddingsFile, slab_bounds
from seqembed.settings.recipe import Recipe, pick_recipe
from seqembed.storage.digests import DigestIndex, digest_ids, digest_rows, first_rows

# The bit 8 has no meaning; earlier versions may have set it.
KNOWN_FLAGS = WINDOWED | TRUNCATED | FP32_RETRY | 8
# The attributes that every file has, and those that each kind of file has too.
ATTRIBUTES = [field.name for field in fields(Recipe) if field.default is MISSING]
ATTRIBUTES += ["recipe_fingerprint", "model", "weights_sha256"]
KINDS = {"embeddings": ["index_fingerprint"], "shard": ["shard_fingerprint", "rank", "world_size"]}
# store/ and checkpoints/ may hold hard links to the damaged file, which the next run would use.
AGAIN = "remove the file, and store/ and checkpoints/ of its dataset, and run again"
NOT_FINITE = "has a value that is not finite"


def check_alone(file: EmbeddingsFile) -> str:
    """Return the file's kind, "embeddings" or "shard"; raise ShardError for the first fault."""
    kind = _check_attributes(file)
    _check_values(file)
    firsts = first_rows(digest_ids(read_ids(file)))
    refuse(file, "sequence_ids", firsts != np.arange(len(firsts)), "has this id, too", firsts)
    _check_digests(file, repeats=kind == "embeddings")
    return kind


def error_of(problem: str, advice: str = AGAIN) -> ShardError:
    """Return an error about an HDF5 file; verify() puts the file's name before the message."""
    return ShardError(f"{problem}; {advice}")


def expect_attributes(
    file: EmbeddingsFile, expected: Mapping[str, Any], source: str, advice: str = AGAIN
) -> None:
    """Raise ShardError unless attributes are as expected; source, advice: texts of the message."""
    for name, value in expected.items():
        if (found := file.attributes.get(name)) != value:
            raise error_of(f"attribute {name} is {found!r}, not {value!r} as {source}", advice)


def refuse(
    file: EmbeddingsFile,
    column: str,
    wrong: NDArray[np.bool_],
    reason: str,
    other: NDArray[np.int64] | None = None,
) -> None:
    """Raise ShardError for the first row that is wrong, if any; column, reason: for the message.

    wrong: (n,) bool. other: None, or for each row a second row that the message names too, (n,).
    """
    if wrong.any():
        row = int(wrong.argmax())
        beside = "" if other is None else f"row {other[row]:,} "
        raise _row_error(file, column, row, beside + reason)


def are_quarantined(file: EmbeddingsFile, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which of (n, 16) digests are in the file's quarantine, (n,) bool."""
    return DigestIndex(digest_rows(file.quarantine())).find(digests) >= 0


def read_ids(file: EmbeddingsFile) -> Iterator[str]:
    """Yield the ids of an HDF5 file, in order; ShardError if an id is empty or not UTF-8."""
    with h5py.File(file.path, "r", locking=False) as plain:
        column = plain["sequence_ids"]
        for start in range(0, len(column), SLAB_ROWS):
            for row, raw in enumerate(column[start : start + SLAB_ROWS], start):
                name = raw.decode(errors="ignore")
                if not name or name.encode() != raw:
                    raise _row_error(file, "sequence_ids", row, "is not a valid id")
                yield name


def find_not_finite(rows: NDArray[np.floating]) -> int | None:
    """Return the number of the first of (n, D) rows with a NaN or infinity; None if none has."""
    for start, stop in slab_bounds(len(rows), max(1, rows.shape[1])):
        finite = np.isfinite(rows[start:stop]).all(axis=1)
        if not finite.all():
            return start + int(finite.argmin())
    return None


def _row_error(
    file: EmbeddingsFile, column: str, row: int, problem: str, owner: int | None = None
) -> ShardError:
    """Return an error about a row; owner: if `row` is a token row, the row of its sequence."""
    with h5py.File(file.path, "r", locking=False) as plain:
        name = plain["sequence_ids"][row if owner is None else owner].decode(errors="replace")
    return error_of(f"{column}, row {row:,} (of {name!r}): {problem}")


def _check_attributes(file: EmbeddingsFile) -> str:
    """Return the file's kind; ShardError if an attribute is missing or does not fit the rows."""
    kind = str(file.attributes.get("kind"))
    if kind not in KINDS:
        raise error_of(f"attribute kind is {kind!r}, not {' or '.join(KINDS)}")
    for name in ATTRIBUTES + KINDS[kind]:
        if name not in file.attributes:
            raise error_of(f"attribute {name} is missing")
    try:
        recipe = pick_recipe(file.attributes)
    except ConfigError as error:
        raise error_of(f"attributes: {error}") from error
    expected = {"recipe_fingerprint": recipe.fingerprint, "storage": file.rows.dtype.name}
    expect_attributes(file, expected, "its recipe and rows say")
    if recipe.per_residue != (file.residues is not None):
        found = "lacks" if recipe.per_residue else "has"
        raise error_of(f"{found} token rows, but attribute per_residue is {recipe.per_residue}")
    return kind


def _check_values(file: EmbeddingsFile) -> None:
    """Raise ShardError for a value that is not finite, an unknown flag or an impossible length."""
    if (row := find_not_finite(file.rows)) is not None:
        raise _row_error(file, "embeddings", row, NOT_FINITE)
    if file.residues is not None and (row := find_not_finite(file.residues)) is not None:
        owner = int(np.searchsorted(file.offsets(), row, "right")) - 1
        raise _row_error(file, "residues/embeddings", row, NOT_FINITE, owner)
    refuse(file, "flags", file.flags() & ~np.uint8(KNOWN_FLAGS) > 0, "has unknown bits")
    refuse(file, "lengths", file.lengths() < 1, "is below 1")


def _check_digests(file: EmbeddingsFile, *, repeats: bool) -> None:
    """Raise ShardError if rows of one digest differ, or the quarantine has a row's digest, too.

    repeats: whether several rows may have one digest, if their values and lengths are equal.
    """
    digests, lengths = file.digests(), file.lengths()
    firsts = first_rows(digests)
    wrong, reason = firsts != np.arange(len(firsts)), "is of the same sequence"
    if repeats:
        again = np.flatnonzero(wrong)
        wrong, reason = lengths != lengths[firsts], f"{reason}, but has another embedding or length"
        for start, stop in slab_bounds(len(again), max(1, file.width)):
            here = again[start:stop]
            wrong[here] |= (file.rows[here] != file.rows[firsts[here]]).any(axis=1)
    refuse(file, "digests", wrong, reason, firsts)
    quarantined = are_quarantined(file, digests)
    refuse(file, "digests", quarantined, "quarantine/digests has this sequence, too")
