"""Load packed batches: read their sequences from a shard's index, and pack them for the model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from seqembed.index.parquet import (
    Digests,
    Int64s,
    damage_error,
    damage_named,
    open_parquet,
    read_row_group,
)
from seqembed.inference.batches import PackedBatch, RawBatch, VarlenCollator
from seqembed.machine.prefetch import prefetch
from seqembed.storage.digests import digest_all, digest_rows

# For a GPU, this many batches are packed ahead. A batch takes the thread 0.2 ms. One in 70 takes 4
# ms more, to read the next row group (measured), about as long as a small model needs for a batch.
BATCHES_AHEAD = 4


class IndexBasedDataset:
    """The batches that a worker computes: item i holds the residues of pass i.

    index_path: the shard's index. digests: (N, 16) uint8, of all its rows. rows: (n,) the rows to
    compute, ascending. boundaries: from put_suspects_first. passes: from plan_passes.
    windows_a_pass: the most windows of one sequence in a pass. To save memory, only the row group
    that was read last is kept. Reading an item raises IndexFormatError if the index is damaged, or
    holds other sequences than `digests`.
    """

    def __init__(
        self,
        index_path: Path,
        digests: Digests,
        rows: Int64s,
        boundaries: Int64s,
        passes: tuple[Int64s, Int64s],
        windows_a_pass: int,
    ) -> None:
        self._path, self._file = index_path, open_parquet(index_path)
        self._digests, self._rows, self._boundaries = digests, rows, boundaries
        self._batches, self._begins = passes
        self._windows_a_pass = windows_a_pass
        groups = map(self._file.metadata.row_group, range(self._file.num_row_groups))
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        read = partial(read_row_group, self._file, columns=["residues"])
        self._read = lru_cache(maxsize=1)(read)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, item: int) -> RawBatch:
        batch, begin = self._batches[item], int(self._begins[item])
        last = item + 1 == len(self) or self._batches[item + 1] != batch
        start = int(self._boundaries[batch])
        end = int(self._boundaries[batch + 1]) if last else start + 1
        stop = None if last else begin + self._windows_a_pass
        rows = self._rows[start:end]
        return RawBatch(rows, self._residues(rows), (begin, stop))

    def _residues(self, rows: Int64s) -> list[bytes]:
        """Return the residues of rows, which may lie in several row groups."""
        groups = self._starts.searchsorted(rows, side="right") - 1
        found: list[bytes] = []
        for number in np.unique(groups).tolist():
            found += self._residues_of_group(number, rows[groups == number])
        return found

    def _residues_of_group(self, number: int, rows: Int64s) -> list[bytes]:
        places = (rows - self._starts[number]).tolist()
        with damage_named(self._path):
            group = self._read(number)
            # Arrow's take() would import pandas.
            residues: list[bytes] = [group["residues"][place].as_py() for place in places]
            digests = digest_rows(digest_all(residues))
        # The digest decides which sequence ids get the computed row.
        wrong = (digests != self._digests[rows]).any(1)
        if wrong.any():
            raise damage_error(self._path, f"damaged in row {rows[wrong.argmax()]}")
        return residues


class BatchLoader:
    """The packed batches of a dataset, in order; each iteration begins at the first batch.

    pinned: batches are read and packed in a thread, up to BATCHES_AHEAD ahead of the caller, and
    are in page-locked memory. An error in packing a batch is raised when its turn comes.
    """

    def __init__(self, dataset: IndexBasedDataset, collator: VarlenCollator, pinned: bool) -> None:
        self._dataset, self._collate, self._pinned = dataset, collator, pinned

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[PackedBatch]:
        items = range(len(self._dataset))
        batches = (self._collate(self._dataset[item]) for item in items)
        if not self._pinned:
            return batches
        return prefetch((batch.pin_memory() for batch in batches), BATCHES_AHEAD)


def create_async_dataloader(
    dataset: IndexBasedDataset, collator: VarlenCollator, device: torch.device
) -> BatchLoader:
    """Return a loader of the dataset's packed batches, in order.

    For a GPU, a thread packs the batches ahead. On a CPU, a batch is packed when it is asked for:
    while that is done, the streams compute other batches.
    """
    return BatchLoader(dataset, collator, pinned=device.type == "cuda")
