"""Batches: planned over a shard's rows, read from the shard's index, and packed for the model.

A batch goes through the model in one pass, or in several if its first sequence has more windows
than the token budget holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seqembed.checkpoints.failures import Suspect
from seqembed.index.parquet import damage_error, damage_named, open_parquet, read_row_group
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.tokenization import SPECIALS
from seqembed.settings.lengths import LengthPolicy, Window
from seqembed.storage.digests import digest

Int64s = NDArray[np.int64]
Encode = Callable[[bytes], Int64s]

# Smaller matrix products take other code paths, with other last bits (measured on CPU).
MIN_BATCH_TOKENS = 128


def plan_batches(
    tokens: Int64s, token_budget: int, begins: NDArray[np.bool_] | None = None
) -> Int64s:
    """Cut the rows of a shard, in their order, into batches of at most `token_budget` tokens.

    A pure function of its arguments, so a restarted worker plans the same batches. A row that is
    over the budget by itself is a batch of its own.

    Args:
        tokens: (N,) tokens of each row, specials included, in processing order; for a row of
            several passes only those of its last pass, which other rows may join.
        token_budget: the most tokens of a pass.
        begins: (N,) whether a row has several passes, and so begins a batch; None if no row does.

    Returns:
        (B+1,) boundaries: batch b holds the rows from boundaries[b] to boundaries[b + 1].
    """
    boundaries, filled = [0], 0
    first = np.zeros(len(tokens), bool) if begins is None else begins
    for row, (size, begin) in enumerate(zip(tokens.tolist(), first.tolist(), strict=True)):
        if filled and (begin or filled + size > token_budget):
            boundaries.append(row)
            filled = 0
        filled += size
    if len(tokens):
        boundaries.append(len(tokens))
    return np.array(boundaries, dtype=np.int64)


def pending_batches(boundaries: Int64s, rows: Sequence[int]) -> Int64s:
    """Return the (b,) batches of a plan that hold any of `rows`, ascending."""
    return np.unique(np.searchsorted(boundaries, rows, side="right") - 1)


def put_suspects_first(
    boundaries: Int64s, rows: Sequence[int], suspects: Mapping[int, Suspect]
) -> tuple[Int64s, Int64s]:
    """Return a plan's boundaries with each suspect in a batch of its own, and batches in order.

    The (b,) batches are those that hold any of `rows`: suspects first, in their order. Suspects
    that ran out of memory come last: if one ends the process, all else is done.
    """
    own = np.array(list(suspects), np.int64)
    boundaries = np.union1d(boundaries, [own, own + 1])
    turns = {
        row: turn + 1 if suspect.memory else turn - len(suspects)
        for turn, (row, suspect) in enumerate(suspects.items())
    }
    batches = pending_batches(boundaries, rows)
    found = [turns.get(start, 0) for start in boundaries[batches].tolist()]
    return boundaries, batches[np.argsort(found, kind="stable")]


def plan_passes(
    boundaries: Int64s, batches: Int64s, passes: Int64s, windows_a_pass: int
) -> tuple[Int64s, Int64s]:
    """Split the (b,) batches to compute into their passes.

    boundaries: (B+1,) of the plan. passes: (N,) how many each row takes. windows_a_pass: how many
    windows of one sequence a pass holds. Returns the batch of each pass, (p,), and the window of
    that batch's first row with which the pass begins, (p,).
    """
    counts = passes[boundaries[batches]]
    firsts = np.cumsum(counts) - counts
    begins = (np.arange(counts.sum()) - np.repeat(firsts, counts)) * windows_a_pass
    return np.repeat(batches, counts), begins


@dataclass(frozen=True, eq=False)
class RawBatch:
    """Sequences of a shard that go through the model at once, as residues.

    positions: (B,) int64, the sequences' rows in the shard. windows: the first window of the first
    sequence to compute and the one after the last, None for all; other sequences are whole.
    """

    positions: Int64s
    residues: list[bytes]
    windows: tuple[int, int | None] = (0, None)


@dataclass(frozen=True, slots=True)
class PackedWindow:
    """A window in a packed batch, in which its sequence has the rows from start to stop.

    position: the sequence's row in the shard. first, last: whether this is the sequence's first or
    last window; the special token before or after the rows then belongs to the sequence, too.
    """

    position: int
    start: int
    stop: int
    first: bool
    last: bool


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Windows laid end to end, and perhaps a dummy after them. tokens: (T,) int64."""

    windows: list[PackedWindow]
    tokens: Tensor
    packing: Packing

    @cached_property
    def positions(self) -> list[int]:
        """The rows in the shard of the sequences, each once, in order."""
        return list(dict.fromkeys(window.position for window in self.windows))

    @property
    def size(self) -> int:
        """How many tokens the batch has, without the dummy's."""
        return self.packing.bounds[len(self.windows)]

    def select(self, numbers: Sequence[int]) -> PackedBatch:
        """Return a batch of the windows of these numbers."""
        tokens, bounds = self.tokens.numpy(), self.packing.bounds
        windows, parts, offset = [], [], 0
        for number in numbers:
            window, shift = self.windows[number], offset - bounds[number]
            windows.append(replace(window, start=window.start + shift, stop=window.stop + shift))
            parts.append(tokens[bounds[number] : bounds[number + 1]])
            offset += len(parts[-1])
        return _pack(windows, parts)

    def split(self) -> list[PackedBatch]:
        """Return a batch for each sequence, in order."""
        numbers = groupby(range(len(self.windows)), lambda number: self.windows[number].position)
        return [self.select(list(own)) for _, own in numbers]

    def cut(self, token_limit: int | None) -> list[PackedBatch]:
        """Return batches of at most `token_limit` tokens, in order; a larger window is alone."""
        if token_limit is None or self.size <= token_limit:
            return [self]
        sizes = np.diff(self.packing.bounds[: len(self.windows) + 1])
        bounds = plan_batches(sizes, token_limit).tolist()
        return [self.select(range(*pair)) for pair in pairwise(bounds)]

    def pin_memory(self) -> PackedBatch:
        """Return this batch in page-locked memory; called by DataLoader."""
        packing = Packing(self.packing.bounds, self.packing.cu_seqlens.pin_memory())
        return PackedBatch(self.windows, self.tokens.pin_memory(), packing)


class IndexBasedDataset(Dataset[RawBatch]):
    """The batches of a shard that are to compute; item i is the i-th of `passes` (plan_passes).

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
        read = partial(read_row_group, self._file, columns=["residues", "digest"])
        self._read = lru_cache(maxsize=1)(read)

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
        row = position - int(self._starts[number])
        with damage_named(self._path):
            group = self._read(number)
            residues, expected = group["residues"][row].as_py(), group["digest"][row].as_py()
        # The digest decides which sequence ids get the computed row.
        if digest(residues) != expected:
            raise damage_error(self._path, f"damaged in row {position}")
        return bytes(residues)


class VarlenCollator:
    """Packs a batch: encodes each sequence, cuts it by the policy, lays its windows end to end."""

    def __init__(self, encode: Encode, policy: LengthPolicy) -> None:
        # A sequence of many windows comes again for each pass.
        self._encode, self._policy = lru_cache(maxsize=1)(encode), policy

    def __call__(self, batch: RawBatch) -> PackedBatch:
        windows: list[PackedWindow] = []
        parts: list[Int64s] = []
        offset, wanted = 0, slice(*batch.windows)
        for position, residues in zip(batch.positions.tolist(), batch.residues, strict=True):
            tokens = self._encode(residues)
            cuts = self._policy.cut(len(tokens) - SPECIALS)
            for number in range(len(cuts))[wanted]:
                windows.append(_place(position, offset, cuts, number))
                own = tokens[1 + cuts[number].start : 1 + cuts[number].stop]
                parts.append(np.concatenate((tokens[:1], own, tokens[-1:])))
                offset += len(parts[-1])
            wanted = slice(None)
        return _pack(windows, parts)


def _pack(windows: list[PackedWindow], parts: list[Int64s]) -> PackedBatch:
    """Lay the tokens of windows end to end, and a dummy after them if they are too few."""
    missing = MIN_BATCH_TOKENS - sum(map(len, parts))
    if missing > 0:
        parts = [*parts, np.full(missing + SPECIALS, parts[0][0])]
    packing = Packing.of([len(part) for part in parts])
    return PackedBatch(windows, torch.from_numpy(np.concatenate(parts)), packing)


def _place(position: int, offset: int, cuts: list[Window], number: int) -> PackedWindow:
    """Return the window of this number; its first special token is row `offset` of the batch."""
    window, own = cuts[number], offset + 1 - cuts[number].start
    start, stop = own + window.keep_start, own + window.keep_stop
    return PackedWindow(position, start, stop, first=number == 0, last=number == len(cuts) - 1)


def create_async_dataloader(
    dataset: IndexBasedDataset, collator: VarlenCollator, device: torch.device
) -> DataLoader[PackedBatch]:
    """Return a loader of packed batches, in order, in page-locked memory if they go to a GPU.

    The loader starts no process: importing PyTorch once more would take longer than packing.
    """
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=collator,  # type: ignore[arg-type]
        num_workers=0,
        pin_memory=device.type == "cuda",
    )
