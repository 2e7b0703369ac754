"""The merge: the shards' rows given to all ids of the index, in its order."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ShardError
from seqembed.flags import TRUNCATED, WINDOWED
from seqembed.index.parquet import read_metadata
from seqembed.index.table import (
    IndexFingerprint,
    read_excluded,
    read_ids_and_reasons,
    read_lengths_and_digests,
)
from seqembed.results.quarantine import escape
from seqembed.results.reader import (
    EmbeddingsFile,
    allow_open_shards,
    open_embeddings,
    pool_token_rows,
    slab_bounds,
    store_path,
)
from seqembed.results.rows import RowPool
from seqembed.results.writer import Slab, write_embeddings
from seqembed.storage.digests import DigestIndex, count_distinct, digest_rows
from seqembed.storage.publish import link, remove_temporary

SHOWN_REASONS = 3
# Of a shard alone, and never of the whole.
SHARD_ATTRIBUTES = ("kind", "rank", "world_size", "shard_fingerprint", "created")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a merged file holds; `relinked` if the store had it already.

    quarantined: digests of the sequences that could not be embedded, and why.
    """

    sequences: int
    distinct: int
    dimensions: int
    windowed: int
    truncated: int
    relinked: bool
    quarantined: Mapping[bytes, str]


@dataclass(frozen=True, eq=False)
class _Index:
    """(N,) lengths and (N, 16) digests of an index, and `rows`, (n,), that get an embedding."""

    path: Path
    lengths: NDArray[np.int64]
    digests: NDArray[np.uint8]
    rows: NDArray[np.int64]


def merge(
    index_path: Path, shard_paths: Sequence[Path], output: Path, logger: logging.Logger
) -> Summary:
    """Write `embeddings.h5`, link it into the store, then remove its recipe's checkpoints.

    If the store has the result of the same ids, sequences and recipe, that is linked instead.
    Temporary files that killed writers left go first: they may fill the disk.

    Raises:
        ShardError: a shard is damaged, of another recipe, or lacks a row that the index wants; or
            none of at least two sequences could be embedded.
        IndexFormatError: the index is damaged.
    """
    fingerprint = read_metadata(index_path, "index")["fingerprint"]
    results = output.parent
    remove_temporary(results, results / "store", results / "recipes", shard_paths[0].parent)
    allow_open_shards(len(shard_paths))
    with ExitStack() as stack:
        shards = [stack.enter_context(open_embeddings(path)) for path in shard_paths]
        recipe = _check_belong_together(shards)
        quarantined = _join_quarantines(shards)
        _refuse_no_rows(shards, quarantined, results)
        wanted = {"index_fingerprint": fingerprint, "recipe_fingerprint": recipe}
        stored = store_path(results / "store", recipe)
        summary = _read_stored(stored, wanted, quarantined, logger)
        if summary:
            link(stored, output)
        else:
            summary = _write(index_path, shards, output, fingerprint, quarantined)
            link(output, stored)
    remove_checkpoints(results / "checkpoints", recipe)
    remove_other_shards(shard_paths)
    return summary


def remove_other_shards(shard_paths: Sequence[Path]) -> None:
    """Remove the shards that an earlier, larger world size left beside these."""
    for path in set(shard_paths[0].parent.glob("shard_*.h5")) - set(shard_paths):
        path.unlink()


def remove_checkpoints(folder: Path, recipe_fingerprint: str) -> None:
    """Remove the checkpoints of one recipe; those of others may be unfinished work."""
    for path in folder.glob(f"{recipe_fingerprint[:12]}-*"):
        # rmtree fails at a link or a file, and a good merge would fail with it.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _check_belong_together(shards: Sequence[EmbeddingsFile]) -> str:
    """The shards' one recipe fingerprint; raises ShardError unless they are one whole set."""
    first = shards[0]
    recipe = str(first.attributes["recipe_fingerprint"])
    for rank, shard in enumerate(shards):
        expected = {"kind": "shard", "rank": rank, "world_size": len(shards)}
        expected |= {"recipe_fingerprint": recipe} | _form(first)
        attributes = shard.attributes | _form(shard)
        for name, value in expected.items():
            if (found := attributes.get(name)) != value:
                message = f"{shard.path}: {name} is {found!r}, not {value!r} as beside {first.path}"
                raise ShardError(f"{message}; remove the wrong file and run again")
    return recipe


def _form(shard: EmbeddingsFile) -> dict[str, Any]:
    return {
        "width": shard.width,
        "storage": shard.rows.dtype.name,
        "token rows": shard.residues is not None,
    }


def _join_quarantines(shards: Iterable[EmbeddingsFile]) -> dict[bytes, str]:
    """The quarantined digests of all shards, sorted: the same for any world size."""
    return dict(sorted(pair for shard in shards for pair in shard.quarantine().items()))


def _refuse_no_rows(
    shards: Sequence[EmbeddingsFile], quarantined: Mapping[bytes, str], results: Path
) -> None:
    """Raise ShardError where all sequences failed: that is no fault of theirs."""
    if len(quarantined) < 2 or any(shard.count for shard in shards):
        return
    reasons = Counter(quarantined.values()).most_common(SHOWN_REASONS)
    shown = "; ".join(f"{escape(reason)} ({count:,})" for reason, count in reasons)
    raise ShardError(
        f"{results}: none of {len(quarantined):,} sequences could be embedded: {shown}; the model "
        "or the machine is at fault, see the logs of the workers; then remove "
        f"{results / 'shards'} and {results / 'checkpoints'}, and run again"
    )


def _read_stored(
    path: Path,
    wanted: Mapping[str, str],
    quarantined: Mapping[bytes, str],
    logger: logging.Logger,
) -> Summary | None:
    """What the store's file holds; None unless it is whole and has the `wanted` attributes.

    Where other sequences are quarantined today, it is another result.
    """
    if not path.exists():
        return None
    try:
        with open_embeddings(path) as stored:
            held = stored.quarantine()
            if not wanted.items() <= stored.attributes.items() or held.keys() != quarantined.keys():
                return None
            return _summarise(stored.digests(), stored.flags(), stored.width, held, relinked=True)
    except ShardError as error:
        logger.warning("the store is not used: %s", error)
        return None


def _write(
    index_path: Path,
    shards: Sequence[EmbeddingsFile],
    output: Path,
    fingerprint: str,
    quarantined: Mapping[bytes, str],
) -> Summary:
    index = _read_index(index_path, quarantined)
    places = _find_rows(shards, index)
    flags = np.concatenate([shard.flags() for shard in shards])[places]
    width, storage, tokens = shards[0].width, shards[0].rows.dtype.name, pool_token_rows(shards)
    shared = {k: v for k, v in shards[0].attributes.items() if k not in SHARD_ATTRIBUTES}
    write_embeddings(
        output,
        count=len(places),
        width=width,
        storage=storage,
        attributes=shared | {"kind": "embeddings", "index_fingerprint": fingerprint},
        slabs=_slabs(index, flags, places, RowPool([s.rows for s in shards], width, storage)),
        residues=tokens.take(places) if tokens else None,
        quarantine=quarantined,
    )
    return _summarise(index.digests[index.rows], flags, width, quarantined, relinked=False)


def _read_index(path: Path, quarantined: Mapping[bytes, str]) -> _Index:
    lengths, digests = read_lengths_and_digests(path)
    without = DigestIndex(digest_rows(quarantined))
    wanted = ~read_excluded(path) & (without.find(digests) < 0)
    return _Index(path, lengths, digests, np.flatnonzero(wanted))


def _find_rows(shards: Sequence[EmbeddingsFile], index: _Index) -> NDArray[np.int64]:
    """For each id that gets a row, where it lies in the shards laid end to end, (n,).

    Raises ShardError unless index and shards hold the same sequences.
    """
    lengths, digests = index.lengths[index.rows], index.digests[index.rows]
    places = DigestIndex(np.concatenate([shard.digests() for shard in shards])).find(digests)
    found = np.concatenate([shard.lengths() for shard in shards])
    right = places >= 0
    right[right] = found[places[right]] == lengths[right]
    folder = shards[0].path.parent
    if missing := int((~right).sum()):
        first = index.rows[int(right.argmin())]
        raise ShardError(
            f"{index.path}: {missing:,} of its {len(lengths):,} sequences, the first in row "
            f"{first:,}, are in no shard; remove {folder} and run again"
        )
    used = np.zeros(len(found), bool)
    used[places] = True
    if surplus := int((~used).sum()):
        raise ShardError(
            f"{folder}: {surplus:,} rows of the shards belong to no sequence of {index.path}; "
            "remove the folder and run again"
        )
    return places


def _slabs(
    index: _Index, flags: NDArray[np.uint8], places: NDArray[np.int64], pool: RowPool
) -> Iterator[Slab]:
    """The rows of all ids that get one, in the index's order, a slab at a time.

    Raises IndexFormatError at the end if ids or digests are not those that were indexed.
    """
    names, done, fingerprint = read_ids_and_reasons(index.path), 0, IndexFingerprint()
    # The index is read to its end and checked, even if no id gets a row.
    for start, stop in list(slab_bounds(len(places), pool.width)) or [(0, 0)]:
        # Up to the next id that gets a row; those between get none.
        end = index.rows[stop] if stop < len(places) else len(index.lengths)
        named = list(islice(names, end - done))
        keys = (digest.tobytes() for digest in index.digests[done:end])
        fingerprint.update([name for name, _ in named], keys, [reason for _, reason in named])
        here = index.rows[start:stop]
        yield Slab(
            sequence_ids=[named[row - done][0] for row in here.tolist()],
            lengths=index.lengths[here],
            digests=index.digests[here],
            flags=flags[start:stop],
            embeddings=pool.take(places[start:stop]),
        )
        done = end
    fingerprint.check(index.path)


def _summarise(
    digests: NDArray[np.uint8],
    flags: NDArray[np.uint8],
    width: int,
    quarantined: Mapping[bytes, str],
    *,
    relinked: bool,
) -> Summary:
    return Summary(
        sequences=len(digests),
        distinct=count_distinct(digests),
        dimensions=width,
        windowed=int((flags & WINDOWED > 0).sum()),
        truncated=int((flags & TRUNCATED > 0).sum()),
        relinked=relinked,
        quarantined=quarantined,
    )
