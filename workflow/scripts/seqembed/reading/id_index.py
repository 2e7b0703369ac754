"""Find the row of an id, without the text of all ids in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ShardError
from seqembed.results.reader import EmbeddingsFile
from seqembed.storage.digests import DigestIndex, digest_ids, join_digests

# How many ids are read from the file at once.
IDS_AT_ONCE = 65_536


class IdIndex:
    """Finds ids among those of a file by their digests; takes 24 bytes of memory an id.

    Raises ShardError if the file has an id twice.
    """

    def __init__(self, file: EmbeddingsFile) -> None:
        starts = range(0, file.count, IDS_AT_ONCE)
        parts = (file.ids(start, min(start + IDS_AT_ONCE, file.count)) for start in starts)
        self._index = DigestIndex(join_digests(map(digest_ids, parts)))
        _refuse_repeated(file.path, file, self._index)

    def find(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the row of each of n ids, or -1 for an id that the file does not have: (n,)."""
        return self._index.find(digest_ids(ids))


def _refuse_repeated(path: Path, file: EmbeddingsFile, index: DigestIndex) -> None:
    rows, is_first = index.sorted_rows()
    if not is_first.all():
        row = int(rows[~is_first][0])
        (name,) = file.ids(row, row + 1)
        raise ShardError(f"{path}: has the id {name!r} twice; remove it and run again")
