"""Find the rows of all shards, also those that the shards take from other files."""

from __future__ import annotations

import os
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path

import numpy as np

from seqembed.checkpoints.saved_rows import SavedRows, read_saved
from seqembed.checkpoints.taken_files import check_link, refuse_results
from seqembed.errors import FileFormatError, ShardError
from seqembed.index.parquet import Digests, Int64s
from seqembed.results.reader import EmbeddingsFile, allow_open_shards, open_embeddings
from seqembed.storage.digests import DigestIndex

RUN_AGAIN = "run again, and its rows are computed, or taken from elsewhere"


def open_reused(shards: Sequence[EmbeddingsFile], checkpoints: Path) -> list[SavedRows]:
    """Return the rows of all files from which the shards take rows; ShardError if one is damaged.

    checkpoints: the dataset's folder. Before the error is raised, all damaged files are removed,
    and all shards that name one: the next run makes these shards anew. It reads results that were
    damaged whole before it takes rows of them.
    """
    files, recipe = _list_reused(shards), shards[0].attributes["recipe_fingerprint"]
    allow_open_shards(len(shards), len(files))
    found, problems, bad = [], [], set()
    for paths in files:
        try:
            found.append(_open_file(paths[0], recipe))
        except (FileFormatError, OSError) as error:
            problems.append(_explain(paths[0], error))
            bad |= {*paths}
    if problems:
        refuse_results(checkpoints, bad)
        for path in bad:
            path.unlink(missing_ok=True)
        _remove_shards(shards, {*map(str, bad)}, _find_reused(shards, found)[1])
        more = f", and so it is with {len(problems) - 1:,} more files" if problems[1:] else ""
        raise ShardError(f"{problems[0]}{more}; {RUN_AGAIN}")
    return found


def _explain(path: Path, error: Exception) -> str:
    reason = str(error).removeprefix(f"{path}: ").partition("; ")[0]
    return f"{path}: rows were taken from it, but {reason}"


def _list_reused(shards: Sequence[EmbeddingsFile]) -> list[list[Path]]:
    """Return the paths of the files from which shards take rows, as one list for each file.

    A result from which many shards take rows has a link for each of them, and is read once. These
    links have the same name: one of another name is checked by itself.
    """
    files: dict[object, list[Path]] = {}
    for path in map(Path, dict.fromkeys(name for shard in shards for name in shard.reused()[1])):
        with suppress(OSError):
            status = os.stat(path)
            files.setdefault((status.st_dev, status.st_ino, path.name), []).append(path)
            continue
        files[path] = [path]
    return [*files.values()]


def _open_file(path: Path, recipe: object) -> SavedRows:
    check_link(path)
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

    Also return where each row is, (k,): its number in one count over the shards, then `reused`. If
    a row is in none of the files, the shards that take it are removed, and ShardError is raised.
    """
    digests, rows = _find_reused(shards, reused)
    if missing := int((rows < 0).sum()):
        _remove_shards(shards, set(), rows)
        problem = f"{missing:,} rows of the shards are in none of the files that they name"
        raise ShardError(f"{shards[0].path.parent}: {problem}; {RUN_AGAIN}")
    own = [shard.digests() for shard in shards]
    begin = sum(map(len, own))
    return np.concatenate([*own, digests]), np.concatenate([np.arange(begin), begin + rows])


def _find_reused(
    shards: Sequence[EmbeddingsFile], files: Sequence[SavedRows]
) -> tuple[Digests, Int64s]:
    """Return the (k, 16) digests of the rows that the shards take from other files, and the rows.

    A row is its number in one count over the files, (k,); -1 if it is in none.
    """
    digests, begin = np.concatenate([shard.reused()[0] for shard in shards]), 0
    index, rows = DigestIndex(digests), np.full(len(digests), -1)
    for file in files:
        held = index.find_in(file.digests)
        new = np.flatnonzero((held >= 0) & (rows < 0))
        rows[new] = begin + held[new]
        begin += len(file.digests)
    return digests, rows


def _remove_shards(shards: Sequence[EmbeddingsFile], bad: Set[str], rows: Int64s) -> None:
    """Remove the shards that name a bad file, or miss a row; rows: as _find_reused returns them."""
    begin = 0
    for shard in shards:
        digests, names = shard.reused()
        stop = begin + len(digests)
        if (rows[begin:stop] < 0).any() or not bad.isdisjoint(names):
            shard.path.unlink()
        begin = stop
