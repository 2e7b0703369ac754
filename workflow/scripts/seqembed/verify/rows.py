"""An HDF5 file by itself: attributes, values, ids and digests that cannot be right.

It is read by slabs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ConfigError, ShardError
from seqembed.flags import FP32_RETRY, TRUNCATED, WINDOWED
from seqembed.results.reader import SLAB_ROWS, EmbeddingsFile, slab_bounds
from seqembed.settings.recipe import Recipe
from seqembed.storage.digests import DigestIndex, digest, digest_rows, first_rows

# The last bit is for reused rows, as flags.py says.
KNOWN_FLAGS = WINDOWED | TRUNCATED | FP32_RETRY | 8
# What a file says of itself beside its recipe.
OWN = {
    "embeddings": ("model", "weights_sha256", "index_fingerprint"),
    "shard": ("model", "weights_sha256", "shard_fingerprint", "rank", "world_size"),
}
# Both keep hard links to results, and the next run would take the wrong one from there.
AGAIN = "remove it, store/ and checkpoints/ of its dataset, and run again"


def check_alone(file: EmbeddingsFile) -> str:
    """Return the file's kind; raise ShardError for the first thing that is wrong with it."""
    kind = _check_attributes(file)
    _check_values(file)
    _check_ids(file)
    _check_digests(file, repeat=kind == "embeddings")
    return kind


def _check_attributes(file: EmbeddingsFile) -> str:
    """The file's kind; raises ShardError unless its attributes are whole and fit its rows."""
    kind = str(file.attributes.get("kind"))
    if kind not in OWN:
        raise ShardError(f"{file.path}: attribute kind is {kind!r}; {AGAIN}")
    recipe = _read_recipe(file)
    expected: dict[str, Any] = {"recipe_fingerprint": recipe.fingerprint}
    expected["storage"] = file.rows.dtype.name
    for name, value in expected.items():
        if (found := file.attributes.get(name)) != value:
            fits = f"attribute {name} is {found!r}, but its recipe and rows make it {value!r}"
            raise ShardError(f"{file.path}: {fits}; {AGAIN}")
    if recipe.per_residue != (file.residues is not None):
        raise ShardError(f"{file.path}: has token rows that its recipe does not want; {AGAIN}")
    return kind


def _read_recipe(file: EmbeddingsFile) -> Recipe:
    known = file.attributes
    wanted = [item.name for item in fields(Recipe) if item.default is MISSING]
    wanted += ["recipe_fingerprint", *OWN[str(known["kind"])]]
    if missing := [name for name in wanted if name not in known]:
        raise ShardError(f"{file.path}: attribute {missing[0]} is missing; {AGAIN}")
    own: dict[str, Any] = {f.name: known[f.name] for f in fields(Recipe) if f.name in known}
    try:
        return Recipe(**own)
    except ConfigError as error:
        raise ShardError(f"{file.path}: attributes: {error}; {AGAIN}") from error


def _check_values(file: EmbeddingsFile) -> None:
    """Raise ShardError for a value that is not finite, a flag or a length that cannot be."""
    _check_finite(file, "embeddings", file.rows, lambda row: row)
    if file.residues is not None:
        offsets = file.offsets()
        _check_finite(
            file,
            "residues/embeddings",
            file.residues,
            lambda row: int(np.searchsorted(offsets, row, "right")) - 1,
        )
    flags, lengths = file.flags(), file.lengths()
    refuse(file, "flags", flags & ~np.uint8(KNOWN_FLAGS) > 0, "has bits that mean nothing")
    refuse(file, "lengths", lengths < 1, "is no length of a sequence")


def _check_finite(
    file: EmbeddingsFile, name: str, rows: NDArray[np.floating], owner: Callable[[int], int]
) -> None:
    """owner: the sequence that one of the (n, D) rows belongs to."""
    for start, stop in slab_bounds(len(rows), max(1, file.width)):
        finite = np.isfinite(rows[start:stop]).all(axis=1)
        if not finite.all():
            row = start + int(finite.argmin())
            raise _fault(file, name, row, "has a value that is not finite", owner(row))


def refuse(file: EmbeddingsFile, name: str, places: NDArray[np.bool_], reason: str) -> None:
    """Raise ShardError, naming the first row, if any of (N,) `places` is true."""
    if places.any():
        raise _fault(file, name, int(places.argmax()), reason)


def _fault(
    file: EmbeddingsFile, name: str, row: int, reason: str, sequence: int | None = None
) -> ShardError:
    """sequence: the one that the row belongs to, where it is not that of its number."""
    with h5py.File(file.path, "r", locking=False) as plain:
        raw = plain["sequence_ids"][row if sequence is None else sequence]
    owner = raw.decode(errors="replace")
    return ShardError(f"{file.path}: {name}, row {row:,} (of {owner!r}): {reason}; {AGAIN}")


def _check_ids(file: EmbeddingsFile) -> None:
    """Raise ShardError unless every row has an id of its own."""
    keys = bytearray()
    for name in read_ids(file):
        keys += digest(name.encode())
    firsts = first_rows(np.frombuffer(keys, np.uint8).reshape(-1, 16))
    again = firsts != np.arange(len(firsts))
    if again.any():
        row = int(again.argmax())
        raise _fault(file, "sequence_ids", row, f"row {firsts[row]:,} has this id, too")


def read_ids(file: EmbeddingsFile) -> Iterator[str]:
    """The ids as they are asked for; raises ShardError for one that is none."""
    with h5py.File(file.path, "r", locking=False) as plain:
        column = plain["sequence_ids"]
        for start in range(0, len(column), SLAB_ROWS):
            for row, raw in enumerate(column[start : start + SLAB_ROWS], start):
                try:
                    name = raw.decode()
                except UnicodeDecodeError:
                    name = ""
                if not name:
                    raise _fault(file, "sequence_ids", row, "is no id")
                yield name


def _check_digests(file: EmbeddingsFile, *, repeat: bool) -> None:
    """Raise ShardError unless a sequence's rows are equal; `repeat`: it may have several."""
    digests, lengths = file.digests(), file.lengths()
    firsts = first_rows(digests)
    again = np.flatnonzero(firsts != np.arange(len(firsts)))
    for start, stop in slab_bounds(len(again), max(1, file.width)):
        here, first = again[start:stop], firsts[again[start:stop]]
        equal = (file.rows[here] == file.rows[first]).all(axis=1)
        equal &= (lengths[here] == lengths[first]) & repeat
        if not equal.all():
            place = int(equal.argmin())
            other = ", with another embedding or length" if repeat else ""
            reason = f"row {first[place]:,} is of the same sequence{other}"
            raise _fault(file, "digests", int(here[place]), reason)
    without = DigestIndex(digest_rows(file.quarantine())).find(digests) >= 0
    refuse(file, "digests", without, "quarantine/digests has this sequence, too")
