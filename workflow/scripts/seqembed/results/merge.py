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
from seqembed.storage.publish import link, remove_temporary
from seqembed.flags import TRUNCATED, WINDOWED
from seqembed.index.table import IndexFingerprint, read_excluded, read_lengths_and_digests, read_ids_and_reasons
from seqembed.index.parquet import read_metadata
from seqembed.results.quarantine import escape
from seqembed.results.rows import RowPool
from seqembed.storage.digests import DigestIndex, count_distinct, digest_rows
from seqembed.results.writer import Slab, TokenRows, write_embeddings
from seqembed.results.reader import (
    EmbeddingsFile,
    allow_open_shards,
    open_embeddings,
    pool_token_rows,
    slab_bounds,
)
from seqembed.results.reader import store_path

SHOWN_REASONS = 3
# Of a shard alone, and never of the whole.
SHARD_ATTRIBUTES = ("kind", "rank", "world_size", "shard_fingerprint", "created")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a merged file holds; `relinked` if it was in the store already.

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

    lengths: NDArray[np.int64]
    digests: NDArray[np.uint8]
    rows: NDArray[np.int64]


def merge(
    index_path: Path, shard_paths: Sequence[Path], output: Path, logger: logging.Logger
) -> Summary:
    """Write `embeddings.h5`, keep it in the store, then clear its recipe's checkpoints.

    What killed writers left of the dataset goes first: it may fill the disk.

    A whole result of the same ids, sequences and recipe that the store has is linked instead.

    Raises:
        ShardError: a shard is damaged, of another recipe, or lacks a row that the index wants; or
            none of the sequences, of two at least, could be embedded.
        IndexFormatError: the index is damaged.
    """
    fingerprint = read_metadata(index_path, "index")["fingerprint"]
    results = output.parent
    remove_temporary(results, results / "store", results / "recipes", shard_paths[0].parent)
    allow_open_shards(len(shard_paths))
    with ExitStack() as stack:
        shards = [stack.enter_context(open_embeddings(path)) for path in shard_paths]
        recipe = _check_belong_together(shards)
        stored = store_path(results / "store", recipe)
        quarantined = _join(shard.quarantine() for shard in shards)
        _refuse_nothing(shards, quarantined, results)
        summary = _read_result(stored, fingerprint, recipe, quarantined, logger)
        if summary:
            link(stored, output)
        else:
            attributes = _attributes(shards[0], fingerprint)
            summary = _write(index_path, shards, output, attributes, quarantined)
            link(output, stored)
    clear_checkpoints(results / "checkpoints", recipe)
    clear_other_shards(shard_paths)
    return summary


def clear_other_shards(shard_paths: Sequence[Path]) -> None:
    """Remove the shards that an earlier, larger world size left beside these."""
    for path in set(shard_paths[0].parent.glob("shard_*.h5")) - set(shard_paths):
        path.unlink()


def clear_checkpoints(folder: Path, recipe_fingerprint: str) -> None:
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
    for rank, shard in enumerate(shards):
        expected: dict[str, Any] = {"kind": "shard", "rank": rank, "world_size": len(shards)}
        expected["recipe_fingerprint"] = first.attributes["recipe_fingerprint"]
        expected |= _form(first)
        attributes = shard.attributes | _form(shard)
        for name, value in expected.items():
            if (found := attributes.get(name)) != value:
                message = f"{shard.path}: {name} is {found!r}, not {value!r} as beside {first.path}"
                raise ShardError(f"{message}; remove the wrong file and run again")
    return str(first.attributes["recipe_fingerprint"])


def _join(tables: Iterable[Mapping[bytes, str]]) -> dict[bytes, str]:
    """All of these in one, in the order of their digests: the same however it was split."""
    joined: dict[bytes, str] = {}
    for table in tables:
        joined |= table
    return dict(sorted(joined.items()))


def _refuse_nothing(
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


def _form(shard: EmbeddingsFile) -> dict[str, Any]:
    return {
        "width": shard.width,
        "storage": shard.rows.dtype.name,
        "token rows": shard.residues is not None,
    }


def _read_result(
    path: Path,
    index_fingerprint: str,
    recipe_fingerprint: str,
    quarantined: Mapping[bytes, str],
    logger: logging.Logger,
) -> Summary | None:
    """What the store's file holds; None unless it is whole, of just these ids and this recipe.

    Where other sequences are quarantined today, it is another result.
    """
    if not path.exists():
        return None
    try:
        with open_embeddings(path) as stored:
            wanted = (index_fingerprint, recipe_fingerprint)
            names = ("index_fingerprint", "recipe_fingerprint")
            if tuple(stored.attributes.get(name) for name in names) != wanted:
                return None
            if (held := stored.quarantine()).keys() != quarantined.keys():
                return None
            return _summarise(stored.digests(), stored.flags(), stored.width, held, relinked=True)
    except ShardError as error:
        logger.warning("the store is not used: %s", error)
        return None


def _attributes(shard: EmbeddingsFile, index_fingerprint: str) -> dict[str, str | int]:
    """The merged file's attributes: what its shards share, and the index's fingerprint."""
    shared = {k: v for k, v in shard.attributes.items() if k not in SHARD_ATTRIBUTES}
    return shared | {"kind": "embeddings", "index_fingerprint": index_fingerprint}


def _write(
    index_path: Path,
    shards: Sequence[EmbeddingsFile],
    output: Path,
    attributes: Mapping[str, str | int],
    quarantined: Mapping[bytes, str],
) -> Summary:
    index = _read_index(index_path, quarantined)
    places = _find_rows(index_path, shards, index)
    flags = np.concatenate([shard.flags() for shard in shards])[places]
    width = shards[0].width
    write_embeddings(
        output,
        count=len(places),
        width=width,
        storage=shards[0].rows.dtype.name,
        attributes=attributes,
        slabs=_slabs(index_path, shards, index, flags, places),
        residues=_token_rows(shards, places),
        quarantine=quarantined,
    )
    return _summarise(index.digests[index.rows], flags, width, quarantined, relinked=False)


def _read_index(path: Path, quarantined: Mapping[bytes, str]) -> _Index:
    lengths, digests = read_lengths_and_digests(path)
    without = DigestIndex(digest_rows(quarantined))
    wanted = ~read_excluded(path) & (without.find(digests) < 0)
    return _Index(lengths, digests, np.flatnonzero(wanted))


def _token_rows(shards: Sequence[EmbeddingsFile], places: NDArray[np.int64]) -> TokenRows | None:
    pool = pool_token_rows(shards)
    if pool is None:
        return None
    return TokenRows(offsets=pool.offsets(places), parts=pool.parts(places))


def _find_rows(
    index_path: Path, shards: Sequence[EmbeddingsFile], index: _Index
) -> NDArray[np.int64]:
    """Where the row of each id that gets one lies in the shards, one after the other, (n,) int64.

    Raises ShardError unless index and shards hold the same sequences.
    """
    lengths, digests = index.lengths[index.rows], index.digests[index.rows]
    places = DigestIndex(np.concatenate([shard.digests() for shard in shards])).find(digests)
    found = np.concatenate([shard.lengths() for shard in shards])
    right = places >= 0
    right[right] = found[places[right]] == lengths[right]
    wrong = np.flatnonzero(~right)
    if len(wrong):
        raise ShardError(
            f"{index_path}: {len(wrong):,} of its {len(lengths):,} sequences, the first in row "
            f"{index.rows[wrong[0]]:,}, are in no shard; remove {shards[0].path.parent} and run "
            "again"
        )
    unused = np.ones(len(found), bool)
    unused[places] = False
    if surplus := int(unused.sum()):
        raise ShardError(
            f"{shards[0].path.parent}: {surplus:,} rows of the shards belong to no sequence of "
            f"{index_path}; remove the folder and run again"
        )
    return places


def _slabs(
    index_path: Path,
    shards: Sequence[EmbeddingsFile],
    index: _Index,
    flags: NDArray[np.uint8],
    places: NDArray[np.int64],
) -> Iterator[Slab]:
    """The rows of all ids that get one, in the index's order, a slab at a time.

    Raises IndexFormatError at the end where ids or digests are not those that were indexed.
    """
    width, fingerprint = shards[0].width, IndexFingerprint()
    pool = RowPool([shard.rows for shard in shards], width, shards[0].rows.dtype.name)
    names, done = read_ids_and_reasons(index_path), 0
    # Without any row, too, the index is read to its end and checked.
    for start, stop in list(slab_bounds(len(places), width)) or [(0, 0)]:
        # Up to the next row that gets an embedding, those without between them too.
        end = index.rows[stop] if stop < len(places) else len(index.lengths)
        named = list(islice(names, end - done))
        keys = (digest.tobytes() for digest in index.digests[done:end])
        fingerprint.update([name for name, _ in named], keys, [reason for _, reason in named])
        sequence_ids = [named[row - done][0] for row in index.rows[start:stop].tolist()]
        done, here = end, index.rows[start:stop]
        yield Slab(
            sequence_ids=sequence_ids,
            lengths=index.lengths[here],
            digests=index.digests[here],
            flags=flags[start:stop],
            embeddings=pool.take(places[start:stop]),
        )
    fingerprint.check(index_path)


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
