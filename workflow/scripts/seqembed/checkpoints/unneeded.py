"""Find and remove checkpoints that no shard needs any more."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from seqembed.index.parquet import read_metadata
from seqembed.index.sources import read_sources
from seqembed.storage.locks import lock_if_free


def list_unneeded(results: Path) -> list[Path]:
    """Return the folders in a dataset's checkpoints/ that its shards do not need.

    results: the dataset's folder. A shard needs its own checkpoints, and those in which split found
    rows of it. Without shards, nothing is known to be unneeded. Raises IndexFormatError if the
    index of a shard is damaged.
    """
    indexes = sorted(results.glob("index/shard_*.parquet"))
    if not indexes:
        return []
    own = {read_metadata(path, "shard")["fingerprint"][:12] for path in indexes}
    sources = read_sources(results / "index").sources
    named = {Path(source.path).parent.name for source in sources if not source.seal}
    return [
        folder
        for folder in sorted(results.glob("checkpoints/*-*"))
        if folder.is_dir()
        and not folder.is_symlink()
        and folder.name.partition("-")[2] not in own
        and folder.name not in named
    ]


def count_freed(folders: Iterable[Path]) -> int:
    """Return how many bytes of disk are freed if the folders are removed.

    A file that has another name elsewhere, such as the link of a reused result, frees nothing.
    """
    names: Counter[tuple[int, int]] = Counter()
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for state in (state for folder in folders for state in _list_states(folder)):
        key = state.st_dev, state.st_ino
        names[key] += 1
        sizes[key] = state.st_nlink, 512 * state.st_blocks
    return sum(size for key, (links, size) in sizes.items() if names[key] == links)


def remove_unneeded(folder: Path) -> bool:
    """Remove a checkpoint folder, unless a worker is at work in it; return whether it is gone."""
    with lock_if_free(folder) as locked:
        if locked:
            shutil.rmtree(folder)
    return locked


def _list_states(folder: Path) -> Iterator[os.stat_result]:
    for path in folder.rglob("*"):
        state = path.lstat()
        if not path.is_dir() or path.is_symlink():
            yield state
