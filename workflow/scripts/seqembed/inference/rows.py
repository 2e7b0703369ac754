"""Which rows a run makes of a model's token rows, and the rows of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seqembed.flags import FP32_RETRY
from seqembed.models.vocabularies import Specials
from seqembed.settings.request import Pooling, Storage


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Which rows are made from a model's token rows.

    specials: how many special tokens a sequence has. pools_specials: mean and maximum include them.
    per_residue: token rows are returned too. storage: the dtype of all returned rows.
    """

    pooling: Pooling
    specials: Specials
    pools_specials: bool
    per_residue: bool
    storage: Storage


@dataclass(frozen=True, eq=False)
class BatchRows:
    """The rows of the sequences that a batch completes; BatchRows() holds no rows.

    positions: (n,) the sequences' rows in the shard. rows: (n, D) in the dtype of Outputs.storage.
    flags: (n,) FP32_RETRY or 0. residues: pairs of a sequence's row in the shard and the rows of
    the sequence's next m tokens, (m, D); a long sequence's token rows come over several batches.
    given_up: rows in the shard that are not computed; the caller drops their earlier token rows.
    tokens: how many tokens the batch has, without the dummy's.
    """

    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    rows: NDArray[np.floating] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    flags: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    residues: list[tuple[int, NDArray[np.floating]]] = field(default_factory=list)
    given_up: Sequence[int] = ()
    tokens: int = 0

    @property
    def retried(self) -> int:
        """How many of the sequences were computed again in fp32."""
        return int(np.count_nonzero(self.flags == FP32_RETRY))
