"""Merge the shards: write a row for each id of the index, or the reason why it has none."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.merge_progress import RowCounter, report_checked
from seqembed.checkpoints.reused_rows import list_rows, open_reused
from seqembed.checkpoints.saved_rows import SavedRows, pool_saved_tokens
from seqembed.checkpoints.taken_files import forget_refused
from seqembed.checkpoints.unneeded import list_needed
from seqembed.errors import IndexFormatError, ShardError
from seqembed.flags import TRUNCATED, WINDOWED
from seqembed.index.parquet import Digests, Int64s, read_metadata
from seqembed.index.reader import read_checked_ids, read_excluded, read_lengths_and_digests
from seqembed.machine.screen import Report, no_report
from seqembed.results.quarantine_table import escape
from seqembed.results.reader import (
    EmbeddingsFile,
    allow_open_shards,
    join_names,
    open_embeddings,
    store_path,
)
from seqembed.results.rows import RowPool
from seqembed.results.writer import cut_slabs, write_embeddings
from seqembed.storage.digests import DigestIndex, count_distinct, digest_rows
from seqembed.storage.locks import lock_if_free
from seqembed.storage.publish import link, remove_temporary

SHOWN_REASONS = 3
# The attribute that names the GPUs which computed the rows.
CARDS = "device_name"
# Attributes that describe a shard, and are not copied to the merged file.
SHARD_ATTRIBUTES = ("kind", "rank", "world_size", "shard_fingerprint", "created")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a merged file holds.

    sequences: how many rows. distinct: how many different sequences. windowed, truncated: how many
    rows with this flag. dimensions: values in a row. relinked: whether the store had this file
    already. quarantined: the digest, 16 bytes, of each sequence not embedded, with the reason.
    recipe: the fingerprint of the recipe.
    """

    sequences: int
    distinct: int
    dimensions: int
    windowed: int
    truncated: int
    relinked: bool
    quarantined: Mapping[bytes, str]
    recipe: str


def merge(
    index_path: Path,
    shard_paths: Sequence[Path],
    output: Path,
    logger: logging.Logger,
    report: Report = no_report,
) -> Summary:
    """Merge the shards of all ranks, in order, into `output`; return what the merged file holds.

    Rows that a shard takes from other files are read there. The merged file is also linked into the
    store. If the store has a file of the same ids, sequences and recipe already, `output` becomes a
    link to that file. Removes temporary files of killed processes first, since these may fill the
    disk. report: told which share is done.

    Raises:
        ShardError: a shard is damaged, or does not belong to the other shards or to the index; or
            two or more sequences could not be embedded, and no sequence has a row; or a file that
            rows were taken from is gone or damaged: then the shards that took them are removed, so
            that the next run makes them anew.
        IndexFormatError: the index is damaged.
        OSError: too few files can be open at once.
    """
    fingerprint = read_metadata(index_path, "index")["fingerprint"]
    results = output.parent
    remove_temporary(results, results / "store", results / "recipes", shard_paths[0].parent)
    allow_open_shards(len(shard_paths))
    with ExitStack() as stack:
        shards = []
        for path in shard_paths:
            shards.append(stack.enter_context(open_embeddings(path)))
            report_checked(report, len(shards), len(shard_paths))
        recipe = _check_belong_together(shards)
        # Sorted, so that the result is the same for any world size.
        quarantined = dict(sorted(item for s in shards for item in s.quarantine().items()))
        _refuse_no_rows(shards, quarantined, results)
        wanted = {"index_fingerprint": fingerprint, "recipe_fingerprint": recipe}
        stored = store_path(results / "store", recipe)
        found = _read_stored(stored, wanted, quarantined, logger)
        if found:
            link(stored, output)
            distinct, flags, quarantined = found
        else:
            distinct, flags = _write(index_path, shards, output, fingerprint, quarantined, report)
            link(output, stored)
        return Summary(
            sequences=len(flags),
            distinct=distinct,
            dimensions=shards[0].width,
            windowed=int((flags & WINDOWED > 0).sum()),
            truncated=int((flags & TRUNCATED > 0).sum()),
            relinked=found is not None,
            quarantined=quarantined,
            recipe=recipe,
        )


def remove_merged(results: Path, recipe_fingerprint: str) -> None:
    """Remove the shards and the recipe's checkpoints of a dataset whose result is in the store.

    results: the dataset's folder. The next run that needs the shards makes them from the store.
    """
    for path in (results / "shards").glob("shard_*.h5"):
        path.unlink(missing_ok=True)
    forget_refused(results / "checkpoints")
    remove_checkpoints(results, recipe_fingerprint)


def remove_checkpoints(results: Path, recipe_fingerprint: str) -> None:
    """Remove the checkpoints of a recipe from a dataset's folder, and checkpoints/ if then empty.

    Checkpoints of other recipes stay, because they may be unfinished work, and so does what another
    worker has locked: one of an earlier split, which a killed run left behind. If the file system
    has no locks, such a worker cannot be found: only checkpoints that the present shards needed
    are removed, and none if these shards are not known, because an index is damaged.
    """
    folder, needed = results / "checkpoints", set[Path]()
    with suppress(IndexFormatError):
        needed = list_needed(results)
    for path in folder.glob(f"{recipe_fingerprint[:12]}-*"):
        # rmtree raises an error for a link or a file.
        if path.is_dir() and not path.is_symlink():
            with lock_if_free(path, without_locks=path in needed) as free:
                if free:
                    shutil.rmtree(path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _check_belong_together(shards: Sequence[EmbeddingsFile]) -> str:
    """Return the recipe fingerprint that all shards have; ShardError unless ranks and forms fit."""
    first: dict[str, Any] = {}
    for rank, shard in enumerate(shards):
        found = shard.attributes | {"width": shard.width, "storage": shard.rows.dtype.name}
        found |= {"token rows": shard.residues is not None}
        first = first or found
        alike = ("recipe_fingerprint", "width", "storage", "token rows")
        expected = {"kind": "shard", "rank": rank, "world_size": len(shards)}
        for name, value in (expected | {name: first[name] for name in alike}).items():
            if found.get(name) != value:
                problem = f"{name} is {found.get(name)!r}, not {value!r}, as {shards[0].path} needs"
                raise ShardError(f"{shard.path}: {problem}; remove its folder and run again")
    return str(first["recipe_fingerprint"])


def _refuse_no_rows(
    shards: Sequence[EmbeddingsFile], quarantined: Mapping[bytes, str], results: Path
) -> None:
    """Raise ShardError if two or more sequences failed, and no sequence has a row."""
    if len(quarantined) < 2 or any(shard.count or len(shard.reused()[0]) for shard in shards):
        return
    reasons = Counter(quarantined.values()).most_common(SHOWN_REASONS)
    shown = "; ".join(f"{escape(reason)} ({count:,})" for reason, count in reasons)
    raise ShardError(
        f"{results}: none of {len(quarantined):,} sequences could be embedded: {shown}; the model "
        "or the machine is at fault: see the logs of the workers, and mend the cause; then remove "
        f"{results / 'shards'} and {results / 'checkpoints'}, and run again"
    )


def is_result_of(
    stored: EmbeddingsFile, wanted: Mapping[str, str], quarantined: Collection[bytes]
) -> bool:
    """Whether a result has the `wanted` attributes, and these digests in its quarantine."""
    alike = wanted.items() <= stored.attributes.items()
    return alike and stored.quarantine().keys() == set(quarantined)


def _read_stored(
    path: Path,
    wanted: Mapping[str, str],
    quarantined: Mapping[bytes, str],
    logger: logging.Logger,
) -> tuple[int, NDArray[np.uint8], dict[bytes, str]] | None:
    """Return how many distinct sequences the store's file has, its (N,) flags and its quarantine.

    Return None if the file is missing, is damaged (a warning says so), lacks one of the `wanted`
    attributes, or has other sequences in its quarantine than `quarantined`.
    """
    if not path.exists():
        return None
    try:
        with open_embeddings(path) as stored:
            held = stored.quarantine()
            if not is_result_of(stored, wanted, quarantined):
                return None
            return count_distinct(stored.digests()), stored.flags(), held
    except ShardError as error:
        logger.warning("an earlier run's result is not used, this run makes its own: %s", error)
        return None


def _write(
    index_path: Path,
    shards: Sequence[EmbeddingsFile],
    output: Path,
    fingerprint: str,
    quarantined: Mapping[bytes, str],
    report: Report,
) -> tuple[int, NDArray[np.uint8]]:
    """Write the merged file; return how many distinct sequences it has, and its (N,) flags."""
    lengths, all_digests = read_lengths_and_digests(index_path)
    failed = DigestIndex(digest_rows(quarantined)).find(all_digests) >= 0
    kept = ~(read_excluded(index_path) | failed)
    lengths, digests = lengths[kept], all_digests[kept]
    reused = open_reused(shards, index_path.parent / "checkpoints")
    saved = [*map(SavedRows.of, shards), *reused]
    places, distinct = _find_rows(index_path, shards, reused, kept, lengths, digests)
    flags = np.concatenate([file.flags for file in saved])[places]
    width, storage, tokens = shards[0].width, shards[0].rows.dtype.name, pool_saved_tokens(saved)
    residues = tokens.take(places) if tokens else None
    counter = RowCounter(report, len(places), residues)
    # The index's last ids may get no row, and its fingerprint is checked behind them.
    ids = compress((name for name, _ in read_checked_ids(index_path, all_digests)), kept)
    pool = RowPool([file.rows for file in saved], width, storage)
    shared = {k: v for k, v in shards[0].attributes.items() if k not in SHARD_ATTRIBUTES}
    if cards := join_names(str(shard.attributes.get(CARDS, "")) for shard in shards):
        shared[CARDS] = cards
    write_embeddings(
        output,
        count=len(places),
        width=width,
        storage=storage,
        attributes=shared | {"kind": "embeddings", "index_fingerprint": fingerprint},
        slabs=counter.slabs(cut_slabs(ids, lengths, digests, flags, places, pool)),
        residues=residues and counter.residues(residues),
        quarantine=quarantined,
    )
    return distinct, flags


def _find_rows(
    index: Path,
    shards: Sequence[EmbeddingsFile],
    reused: Sequence[SavedRows],
    kept: NDArray[np.bool_],
    lengths: Int64s,
    digests: Digests,
) -> tuple[Int64s, int]:
    """Return the row of each id that gets one, (n,), and how many different rows these are.

    Rows are numbered from 0 in one count over the shards, then `reused`. kept: which of the index's
    (N,) ids get a row. lengths, digests: (n,) and (n, 16), of those ids. Raises ShardError unless
    the index and the shards hold the same sequences.
    """
    known, rows = list_rows(shards, reused)
    found = DigestIndex(known).find(digests)
    own = np.concatenate([shard.lengths() for shard in shards])
    right, folder = found >= 0, shards[0].path.parent
    computed = right & (found < len(own))
    right[computed] = own[found[computed]] == lengths[computed]
    if missing := int((~right).sum()):
        first = np.flatnonzero(kept)[right.argmin()]
        raise ShardError(
            f"{index}: {missing:,} of its {len(lengths):,} sequences, the first in row "
            f"{first:,}, are in no shard; remove {folder} and run again"
        )
    used = np.zeros(len(rows), bool)
    used[found] = True
    if surplus := int((~used).sum()):
        raise ShardError(
            f"{folder}: {surplus:,} rows of the shards belong to no sequence of {index}; "
            "remove this folder and run again"
        )
    return rows[found], len(rows)
