"""Batches: read from the shard's index, and packed for the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seqembed.index.parquet import damage_error, damage_named, open_parquet, read_row_group
from seqembed.inference.plan import Int64s, plan_batches
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.tokenization import SPECIALS
from seqembed.settings.lengths import LengthPolicy, Window
from seqembed.storage.digests import digest

Encode = Callable[[bytes], NDArray[np.int64]]

# Smaller matrix products take other code paths, with other last bits (measured on CPU).
MIN_BATCH_TOKENS = 128


@dataclass(frozen=True, eq=False)
class RawBatch:
    """`positions` (B,) int64 in the shard, and the residues at each.

    windows: of the first sequence, the first window to compute and the one after the last; of the
    others, all are.
    """

    positions: Int64s
    residues: list[bytes]
    windows: tuple[int, int | None] = (0, None)


@dataclass(frozen=True, slots=True)
class PackedWindow:
    """A window in a packed batch: rows start to stop are those of its sequence's own tokens.

    position: of the sequence in the shard. first, last: whether it is the sequence's first or last
    window; its special token before or after these rows then belongs to the sequence, too.
    """

    position: int
    start: int
    stop: int
    first: bool
    last: bool


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Windows laid end to end, and perhaps a dummy behind them. tokens: (T,) int64."""

    windows: list[PackedWindow]
    tokens: Tensor
    packing: Packing

    @cached_property
    def positions(self) -> list[int]:
        """The sequences that it holds windows of, each once."""
        return list(dict.fromkeys(window.position for window in self.windows))

    @property
    def size(self) -> int:
        """Its tokens, without the dummy's."""
        return self.packing.bounds[len(self.windows)]

    def select(self, numbers: Sequence[int]) -> PackedBatch:
        """The windows of these numbers, as a batch of their own."""
        tokens, bounds = self.tokens.numpy(), self.packing.bounds
        windows, parts, offset = [], [], 0
        for number in numbers:
            window, shift = self.windows[number], offset - bounds[number]
            windows.append(replace(window, start=window.start + shift, stop=window.stop + shift))
            parts.append(tokens[bounds[number] : bounds[number + 1]])
            offset += len(parts[-1])
        return _pack(windows, parts)

    def split(self) -> list[PackedBatch]:
        """A batch for each of its sequences, in order."""
        numbers = groupby(range(len(self.windows)), lambda number: self.windows[number].position)
        return [self.select(list(own)) for _, own in numbers]

    def cut(self, token_limit: int | None) -> list[PackedBatch]:
        """Batches of at most `token_limit` tokens, in order; a larger window is one by itself."""
        if token_limit is None or self.size <= token_limit:
            return [self]
        sizes = np.diff(self.packing.bounds[: len(self.windows) + 1])
        bounds = plan_batches(sizes, token_limit).tolist()
        return [self.select(range(*pair)) for pair in pairwise(bounds)]

    def pin_memory(self) -> PackedBatch:
        """The same in page-locked memory; called by DataLoader."""
        packing = Packing(self.packing.bounds, self.packing.cu_seqlens.pin_memory())
        return PackedBatch(self.windows, self.tokens.pin_memory(), packing)


class IndexBasedDataset(Dataset[RawBatch]):
    """The batches to compute of a shard's index: item i is the i-th pass.

    A row group is read when a batch needs it, and only the last one is kept, so that memory does
    not grow with the shard.
    """

    def __init__(
        self,
        index_path: Path,
        boundaries: Int64s,
        passes: tuple[Int64s, Int64s],
        windows_a_pass: int,
    ) -> None:
        self._path, self._file = index_path, open_parquet(index_path)
        self._boundaries, (self._batches, self._begins) = boundaries, passes
        self._step = windows_a_pass
        groups = self._file.metadata.num_row_groups
        sizes = [self._file.metadata.row_group(number).num_rows for number in range(groups)]
        self._starts = np.cumsum([0, *sizes])
        self._group: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, item: int) -> RawBatch:
        batch, begin = self._batches[item], int(self._begins[item])
        last = item + 1 == len(self) or self._batches[item + 1] != batch
        start = self._boundaries[batch]
        positions = np.arange(start, self._boundaries[batch + 1] if last else start + 1)
        residues = [self._residues(int(position)) for position in positions]
        return RawBatch(positions, residues, (begin, None if last else begin + self._step))

    def _residues(self, position: int) -> bytes:
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        row, columns = position - int(self._starts[number]), ["residues", "digest"]
        with damage_named(self._path):
            if number != self._group[0]:
                self._group = (number, read_row_group(self._file, number, columns))
            residues, expected = (self._group[1][name][row].as_py() for name in columns)
        # The digest decides which ids get the row.
        if digest(residues) != expected:
            raise damage_error(self._path, f"damaged in row {position}")
        return bytes(residues)


class VarlenCollator:
    """Packs a batch: encodes each sequence, cuts it by the policy, lays its windows end to end."""

    def __init__(self, encode: Encode, policy: LengthPolicy) -> None:
        self._encode, self._policy = encode, policy
        # A sequence of many windows comes again for each pass.
        self._last: tuple[int, Int64s] = (-1, np.empty(0, np.int64))

    def __call__(self, batch: RawBatch) -> PackedBatch:
        windows: list[PackedWindow] = []
        parts: list[Int64s] = []
        offset = 0
        wanted = slice(*batch.windows)
        for position, residues in zip(batch.positions.tolist(), batch.residues, strict=True):
            tokens = self._tokens(position, residues)
            cuts = self._policy.cut(len(tokens) - SPECIALS)
            for number in range(len(cuts))[wanted]:
                windows.append(_place(position, offset, cuts, number))
                parts.append(_window_tokens(tokens, cuts[number]))
                offset += len(parts[-1])
            wanted = slice(None)
        return _pack(windows, parts)

    def _tokens(self, position: int, residues: bytes) -> Int64s:
        if self._last[0] != position:
            self._last = (position, self._encode(residues))
        return self._last[1]


def _pack(windows: list[PackedWindow], parts: list[Int64s]) -> PackedBatch:
    """Lay the tokens of windows end to end, and a dummy behind them where they are too few."""
    missing = MIN_BATCH_TOKENS - sum(map(len, parts))
    if missing > 0:
        parts = [*parts, np.full(missing + SPECIALS, parts[0][0])]
    packing = Packing.of([len(part) for part in parts])
    return PackedBatch(windows, torch.from_numpy(np.concatenate(parts)), packing)


def _place(position: int, offset: int, cuts: list[Window], number: int) -> PackedWindow:
    """A sequence's window whose first special token is at row `offset` of the batch."""
    window, own = cuts[number], offset + 1 - cuts[number].start
    return PackedWindow(
        position=position,
        start=own + window.keep_start,
        stop=own + window.keep_stop,
        first=number == 0,
        last=number == len(cuts) - 1,
    )


def _window_tokens(tokens: Int64s, window: Window) -> Int64s:
    """A window's tokens between the two specials, of its sequence's (n + 2,) tokens."""
    inner = tokens[1 + window.start : 1 + window.stop]
    return np.concatenate((tokens[:1], inner, tokens[-1:]))


def create_async_dataloader(
    dataset: IndexBasedDataset, collator: VarlenCollator, device: torch.device
) -> DataLoader[PackedBatch]:
    """Load packed batches in their order, into pinned memory if they go to a GPU.

    This process reads them: a loader process would import PyTorch once more, which takes longer
    than packing.
    """
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=collator,  # type: ignore[arg-type]
        num_workers=0,
        pin_memory=device.type == "cuda",
    )
