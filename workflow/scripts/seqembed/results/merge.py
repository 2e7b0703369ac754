"""Merge the shards: write a row for each id of the index, or the reason why it has none."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ShardError
from seqembed.flags import TRUNCATED, WINDOWED
from seqembed.index.parquet import read_metadata
from seqembed.index.reader import read_checked_ids, read_excluded, read_lengths_and_digests
from seqembed.results.quarantine import escape
from seqembed.results.reader import (
    EmbeddingsFile,
    allow_open_shards,
    join_names,
    open_embeddings,
    pool_token_rows,
    store_path,
)
from seqembed.results.rows import RowPool
from seqembed.results.writer import cut_slabs, write_embeddings
from seqembed.storage.digests import DigestIndex, count_distinct, digest_rows
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
    """

    sequences: int
    distinct: int
    dimensions: int
    windowed: int
    truncated: int
    relinked: bool
    quarantined: Mapping[bytes, str]


def merge(
    index_path: Path, shard_paths: Sequence[Path], output: Path, logger: logging.Logger
) -> Summary:
    """Merge the shards of all ranks, in order, into `output`; return what the merged file holds.

    The merged file is also linked into the store. If the store has a file of the same ids,
    sequences and recipe already, `output` becomes a link to that file. Removes temporary files of
    killed processes first, since these may fill the disk; removes the recipe's checkpoints, and
    the shards of an earlier, larger world size, at the end.

    Raises:
        ShardError: a shard is damaged, or does not belong to the other shards or to the index; or
            two or more sequences could not be embedded, and no sequence has a row.
        IndexFormatError: the index is damaged.
        OSError: too few files can be open at once.
    """
    fingerprint = read_metadata(index_path, "index")["fingerprint"]
    results = output.parent
    remove_temporary(results, results / "store", results / "recipes", shard_paths[0].parent)
    allow_open_shards(len(shard_paths))
    with ExitStack() as stack:
        shards = [stack.enter_context(open_embeddings(path)) for path in shard_paths]
        recipe = _check_belong_together(shards)
        # Sorted, so that the result is the same for any world size.
        quarantined = dict(sorted(item for s in shards for item in s.quarantine().items()))
        _refuse_no_rows(shards, quarantined, results)
        wanted = {"index_fingerprint": fingerprint, "recipe_fingerprint": recipe}
        stored = store_path(results / "store", recipe)
        found = _read_stored(stored, wanted, quarantined, logger)
        if found:
            link(stored, output)
            digests, flags, quarantined = found
        else:
            digests, flags = _write(index_path, shards, output, fingerprint, quarantined)
            link(output, stored)
        summary = Summary(
            sequences=len(digests),
            distinct=count_distinct(digests),
            dimensions=shards[0].width,
            windowed=int((flags & WINDOWED > 0).sum()),
            truncated=int((flags & TRUNCATED > 0).sum()),
            relinked=found is not None,
            quarantined=quarantined,
        )
    remove_checkpoints(results / "checkpoints", recipe)
    for path in set(shard_paths[0].parent.glob("shard_*.h5")) - set(shard_paths):
        path.unlink()
    return summary


def remove_checkpoints(folder: Path, recipe_fingerprint: str) -> None:
    """Remove the checkpoints of a recipe from `folder`, and `folder` itself if it is then empty.

    Checkpoints of other recipes stay, because they may be unfinished work.
    """
    for path in folder.glob(f"{recipe_fingerprint[:12]}-*"):
        # rmtree raises an error for a link or a file, and the merge would fail at its end.
        if path.is_dir() and not path.is_symlink():
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
    if len(quarantined) < 2 or any(shard.count for shard in shards):
        return
    reasons = Counter(quarantined.values()).most_common(SHOWN_REASONS)
    shown = "; ".join(f"{escape(reason)} ({count:,})" for reason, count in reasons)
    raise ShardError(
        f"{results}: none of {len(quarantined):,} sequences could be embedded: {shown}; the model "
        "or the machine is at fault: see the logs of the workers, and mend the cause; then remove "
        f"{results / 'shards'} and {results / 'checkpoints'}, and run again"
    )


def _read_stored(
    path: Path,
    wanted: Mapping[str, str],
    quarantined: Mapping[bytes, str],
    logger: logging.Logger,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], dict[bytes, str]] | None:
    """Return the (N, 16) digests, (N,) flags and quarantine of the store's file, or None.

    None: the file is missing, is damaged (a warning says so), lacks one of the `wanted` attributes,
    or has other sequences in its quarantine than `quarantined`.
    """
    if not path.exists():
        return None
    try:
        with open_embeddings(path) as stored:
            held = stored.quarantine()
            if not wanted.items() <= stored.attributes.items() or held.keys() != quarantined.keys():
                return None
            return stored.digests(), stored.flags(), held
    except ShardError as error:
        logger.warning("an earlier run's result is not used, this run makes its own: %s", error)
        return None


def _write(
    index_path: Path,
    shards: Sequence[EmbeddingsFile],
    output: Path,
    fingerprint: str,
    quarantined: Mapping[bytes, str],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Write the merged file; return its (N, 16) digests and (N,) flags."""
    lengths, all_digests = read_lengths_and_digests(index_path)
    failed = DigestIndex(digest_rows(quarantined)).find(all_digests) >= 0
    kept = ~(read_excluded(index_path) | failed)
    lengths, digests = lengths[kept], all_digests[kept]
    places = _find_rows(index_path, shards, kept, lengths, digests)
    flags = np.concatenate([shard.flags() for shard in shards])[places]
    width, storage, tokens = shards[0].width, shards[0].rows.dtype.name, pool_token_rows(shards)
    # The index's last ids may get no row, and its fingerprint is checked behind them.
    ids = compress((name for name, _ in read_checked_ids(index_path, all_digests)), kept)
    pool = RowPool([shard.rows for shard in shards], width, storage)
    shared = {k: v for k, v in shards[0].attributes.items() if k not in SHARD_ATTRIBUTES}
    if cards := join_names(str(shard.attributes.get(CARDS, "")) for shard in shards):
        shared[CARDS] = cards
    write_embeddings(
        output,
        count=len(places),
        width=width,
        storage=storage,
        attributes=shared | {"kind": "embeddings", "index_fingerprint": fingerprint},
        slabs=cut_slabs(ids, lengths, digests, flags, places, pool),
        residues=tokens.take(places) if tokens else None,
        quarantine=quarantined,
    )
    return digests, flags


def _find_rows(
    index: Path,
    shards: Sequence[EmbeddingsFile],
    kept: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    digests: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """Return the row of each id that gets one, (n,), numbered from 0 in one count over all shards.

    kept: which of the index's (N,) ids get a row. lengths, digests: (n,) and (n, 16), of those ids.
    Raises ShardError unless the index and the shards hold the same sequences.
    """
    places = DigestIndex(np.concatenate([shard.digests() for shard in shards])).find(digests)
    found = np.concatenate([shard.lengths() for shard in shards])
    right = places >= 0
    right[right] = found[places[right]] == lengths[right]
    folder = shards[0].path.parent
    if missing := int((~right).sum()):
        first = np.flatnonzero(kept)[right.argmin()]
        raise ShardError(
            f"{index}: {missing:,} of its {len(lengths):,} sequences, the first in row "
            f"{first:,}, are in no shard; remove {folder} and run again"
        )
    used = np.zeros(len(found), bool)
    used[places] = True
    if surplus := int((~used).sum()):
        raise ShardError(
            f"{folder}: {surplus:,} rows of the shards belong to no sequence of {index}; "
            "remove this folder and run again"
        )
    return places
