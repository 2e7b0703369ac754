"""Find the rows of all shards, also those that the shards take from other files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from seqembed.checkpoints.saved_rows import SavedRows, read_saved
from seqembed.errors import FileFormatError, ShardError
from seqembed.index.parquet import Digests, Int64s
from seqembed.index.sources import SOURCES
from seqembed.results.reader import EmbeddingsFile, allow_open_shards, open_embeddings
from seqembed.storage.digests import DigestIndex


def open_reused(shards: Sequence[EmbeddingsFile], indexes: Path) -> list[SavedRows]:
    """Return the rows of all files from which the shards take rows; ShardError if one is damaged.

    indexes: the folder of the shards' indexes. Before the error is raised, the shards that need the
    damaged file are removed, and what split found there: the next run makes these shards anew.
    """
    found, recipe = [], shards[0].attributes["recipe_fingerprint"]
    files = _list_reused(shards)
    allow_open_shards(len(shards) + len(files))
    for names in files:
        try:
            found.append(_open_file(Path(names[0]), recipe))
        except (FileFormatError, OSError) as error:
            for name in names:
                Path(name).unlink(missing_ok=True)
            (indexes / SOURCES).unlink(missing_ok=True)
            for shard in shards:
                if not {*names}.isdisjoint(shard.reused()[1]):
                    shard.path.unlink()
            reason = str(error).removeprefix(f"{names[0]}: ").partition("; ")[0]
            text = f"{names[0]}: rows were taken from it, but {reason}; run again, and its rows are"
            raise ShardError(f"{text} computed, or taken from elsewhere") from error
    return found


def _list_reused(shards: Sequence[EmbeddingsFile]) -> list[list[str]]:
    """Return the paths of the files from which shards take rows, as one list for each file.

    A result from which many shards take rows has a link for each of them, and is read once.
    """
    files: dict[object, list[str]] = {}
    for name in dict.fromkeys(name for shard in shards for name in shard.reused()[1]):
        with suppress(OSError):
            status = os.stat(name)
            files.setdefault((status.st_dev, status.st_ino), []).append(name)
            continue
        files[name] = [name]
    return [*files.values()]


def _open_file(path: Path, recipe: object) -> SavedRows:
    if path.suffix == ".h5":
        with open_embeddings(path) as file:
            if file.attributes.get("recipe_fingerprint") != recipe:
                raise ShardError(f"{path}: it is of another recipe")
            return SavedRows.of(file)
    return read_saved(path)


def list_rows(
    shards: Sequence[EmbeddingsFile], reused: Sequence[SavedRows]
) -> tuple[Digests, Int64s]:
    """Return the (k, 16) digests of all rows of the shards, and of those that they take elsewhere.

    Also return where each row is, (k,): its number in one count over the shards, then `reused`.
    Raises ShardError if a row is not in the file from which it is taken.
    """
    digests = [shard.digests() for shard in shards]
    begin, wanted = sum(map(len, digests)), np.concatenate([shard.reused()[0] for shard in shards])
    index, rows = DigestIndex(wanted), np.full(len(wanted), -1)
    places = np.arange(begin)
    for file in reused:
        held = index.find_in(file.digests)
        new = np.flatnonzero((held >= 0) & (rows < 0))
        rows[new] = begin + held[new]
        begin += len(file.digests)
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        folder = shards[0].path.parent
        problem = f"{len(missing):,} rows of the shards are in none of the files that they name"
        raise ShardError(f"{folder}: {problem}; remove this folder and run again")
    return np.concatenate([*digests, wanted]), np.concatenate([places, rows])
