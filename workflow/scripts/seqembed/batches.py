"""Batches of a shard: their plan under a token budget, and how they are read and packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Encode = Callable[[bytes], NDArray[np.int64]]

# Smaller matrix products take other code paths, with other last bits (measured on CPU).
MIN_BATCH_TOKENS = 128
# Tokens around a sequence's own: BOS and EOS.
SPECIALS = 2
# By device; the GPU's is a guess that no card has confirmed yet.
AUTO_TOKEN_BUDGET = {"cpu": 4096, "cuda": 16384}
DUMMY_RESIDUES = b"A"


def plan_batches(tokens: NDArray[np.int64], token_budget: int) -> NDArray[np.int64]:
    """Cut the rows of a shard, in their order, into batches of at most `token_budget` tokens.

    A pure function of its arguments, so a restarted worker plans the same batches. A row that
    is over the budget by itself is a batch of its own.

    Args:
        tokens: (N,) tokens of each row, specials included, in processing order.
        token_budget: tokens a batch may hold, at least 1.

    Returns:
        (B+1,) boundaries: batch b holds the rows from boundaries[b] to boundaries[b + 1].
    """
    if token_budget < 1:
        raise ValueError(f"a token budget of {token_budget} holds nothing; give at least 1")
    boundaries, filled = [0], 0
    for row, size in enumerate(tokens.tolist()):
        if filled and filled + size > token_budget:
            boundaries.append(row)
            filled = 0
        filled += size
    if len(tokens):
        boundaries.append(len(tokens))
    return np.array(boundaries, dtype=np.int64)


def pending_batches(boundaries: NDArray[np.int64], rows: Sequence[int]) -> NDArray[np.int64]:
    """The batches of a plan that hold any of `rows`, ascending, (b,) int64."""
    found = np.searchsorted(boundaries, np.asarray(rows, np.int64), side="right") - 1
    return np.unique(found)


@dataclass(frozen=True, eq=False)
class RawBatch:
    """`positions` (B,) int64 in the shard, and the residues at each."""

    positions: NDArray[np.int64]
    residues: list[bytes]


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Sequences laid end to end: B of them, and perhaps a dummy behind them.

    positions: (B,) int64; tokens: (T,) int64; cu_seqlens: (B + 1,) int32, or one longer.
    """

    positions: NDArray[np.int64]
    tokens: Tensor
    cu_seqlens: Tensor

    def pin_memory(self) -> PackedBatch:
        """The same in page-locked memory; called by DataLoader."""
        return PackedBatch(self.positions, self.tokens.pin_memory(), self.cu_seqlens.pin_memory())


class IndexBasedDataset(Dataset[RawBatch]):
    """Batches of a shard's index: item i is the i-th of the batches asked for.

    Row groups are read when a batch needs them, and the last one is kept, so that memory does not
    grow with the shard.
    """

    def __init__(
        self, index_path: Path, boundaries: NDArray[np.int64], batches: NDArray[np.int64]
    ) -> None:
        self._file = pq.ParquetFile(index_path)
        self._boundaries, self._batches = boundaries, batches
        groups = self._file.metadata.num_row_groups
        sizes = [self._file.metadata.row_group(number).num_rows for number in range(groups)]
        self._starts = np.cumsum([0, *sizes])
        self._group: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, item: int) -> RawBatch:
        batch = self._batches[item]
        positions = np.arange(self._boundaries[batch], self._boundaries[batch + 1])
        return RawBatch(positions, [self._residues(int(position)) for position in positions])

    def _residues(self, position: int) -> bytes:
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        if number != self._group[0]:
            column = self._file.read_row_group(number, columns=["residues"])["residues"]
            self._group = (number, column)
        residues: bytes = self._group[1][position - int(self._starts[number])].as_py()
        return residues


class VarlenCollator:
    """Packs a batch: each sequence cut to `max_length` residues, encoded, laid end to end."""

    def __init__(self, encode: Encode, max_length: int) -> None:
        self._encode, self._max_length = encode, max_length

    def __call__(self, batch: RawBatch) -> PackedBatch:
        encoded = [self._encode(residues[: self._max_length]) for residues in batch.residues]
        missing = MIN_BATCH_TOKENS - sum(map(len, encoded))
        if missing > 0:
            encoded.append(self._encode(DUMMY_RESIDUES * missing))
        bounds = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
        tokens = torch.from_numpy(np.concatenate(encoded))
        return PackedBatch(batch.positions, tokens, torch.from_numpy(bounds))


def create_async_dataloader(
    dataset: IndexBasedDataset, collator: VarlenCollator, device: torch.device
) -> DataLoader[PackedBatch]:
    """Batches in their order, packed, in pinned memory where they go to a GPU.

    They are read in this process: a loader process would import torch once more, which takes
    longer than packing.
    """
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=collator,  # type: ignore[arg-type]
        num_workers=0,
        pin_memory=device.type == "cuda",
    )
