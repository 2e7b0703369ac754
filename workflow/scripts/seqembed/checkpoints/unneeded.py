"""Find and remove checkpoints that no shard needs any more."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import h5py

from seqembed.index.parquet import read_metadata
from seqembed.index.sources import read_sources
from seqembed.storage.locks import lock_if_free


def list_unneeded(results: Path) -> list[Path]:
    """Return the folders in a dataset's checkpoints/ that its shards do not need.

    results: the dataset's folder. If the result of the present index is there, no folder is needed:
    the merge removed those of its recipe, and those of other settings may be unfinished work.
    Without result and shards, nothing is known to be unneeded. Raises IndexFormatError if an index
    or reuse.json is damaged, and has to be read.
    """
    folders = _list_folders(results)
    if not folders or has_result(results):
        return folders
    if not any(results.glob("index/shard_*.parquet")):
        return []
    needed = list_needed(results)
    return [folder for folder in folders if folder not in needed]


def list_needed(results: Path) -> set[Path]:
    """Return the folders in a dataset's checkpoints/ that its shards need, until it has its result.

    These are the shards' own under any recipe, and those in which split found rows. Raises
    IndexFormatError if the index of a shard, or reuse.json, is damaged.
    """
    indexes = results.glob("index/shard_*.parquet")
    own = {read_metadata(path, "shard")["fingerprint"][:12] for path in indexes}
    sources = read_sources(results / "index").sources
    named = {Path(source.path).parent.name for source in sources if not source.seal}
    return {
        folder
        for folder in _list_folders(results)
        if folder.name.partition("-")[2] in own or folder.name in named
    }


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


def _list_folders(results: Path) -> list[Path]:
    paths = sorted(results.glob("checkpoints/*-*"))
    return [path for path in paths if path.is_dir() and not path.is_symlink()]


def has_result(results: Path) -> bool:
    """Whether embeddings.h5 is there, and was made from the present index.

    With another index, a run that was stopped may be about to replace the result, and need the
    checkpoints.
    """
    path = results / "embeddings.h5"
    if not path.exists():
        return False
    try:
        with h5py.File(path, "r", locking=False) as file:
            made_from = file.attrs.get("index_fingerprint")
    except OSError:
        # It is damaged, and has to be made again.
        return False
    return bool(made_from == read_metadata(results / "index.parquet", "index")["fingerprint"])


def _list_states(folder: Path) -> Iterator[os.stat_result]:
    """Yield the states of a folder's files, without those that a worker removes meanwhile."""
    for base, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(base, name))
