"""Batches of a shard: their plan under a token budget, and how they are read and packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

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

Encode = Callable[[bytes], NDArray[np.int64]]
Int64s = NDArray[np.int64]

# Smaller matrix products take other code paths, with other last bits (measured on CPU).
MIN_BATCH_TOKENS = 128


def plan_batches(
    tokens: Int64s, token_budget: int, begins: NDArray[np.bool_] | None = None
) -> Int64s:
    """Cut the rows of a shard, in their order, into batches of at most `token_budget` tokens.

    A pure function of its arguments, so a restarted worker plans the same batches. A row that
    is over the budget by itself is a batch of its own.

    Args:
        tokens: (N,) tokens of each row, specials included, in processing order; of a row that
            takes several passes, those of its last, which others may join.
        token_budget: tokens a pass may hold, at least 1.
        begins: (N,) rows that take several passes, each the first of its batch; left out, none.

    Returns:
        (B+1,) boundaries: batch b holds the rows from boundaries[b] to boundaries[b + 1].
    """
    if token_budget < 1:
        raise ValueError(f"a token budget of {token_budget} holds nothing; give at least 1")
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
    """The batches of a plan that hold any of `rows`, ascending, (b,) int64."""
    found = np.searchsorted(boundaries, np.asarray(rows, np.int64), side="right") - 1
    return np.unique(found)


def cut_at(boundaries: Int64s, suspects: Sequence[Suspect]) -> Int64s:
    """The plan with each suspect's rows in batches that hold no others."""
    edges = [edge for suspect in suspects for edge in (suspect.first, suspect.last + 1)]
    return np.union1d(boundaries, np.array(edges, np.int64))


def order(batches: Int64s, boundaries: Int64s, suspects: Sequence[Suspect]) -> Int64s:
    """The batches of a plan that was cut at suspects: these first, in their order.

    What ran out of memory comes last: where that ends the process, all else is done.
    """
    starts = boundaries[batches]
    place = np.full(len(batches), len(suspects))
    for number, suspect in enumerate(suspects):
        here = (suspect.first <= starts) & (starts <= suspect.last)
        place[here] = number + (len(suspects) + 1 if suspect.memory else 0)
    return batches[np.argsort(place, kind="stable")]


def plan_passes(
    boundaries: Int64s, batches: Int64s, passes: Int64s, windows_a_pass: int
) -> tuple[Int64s, Int64s]:
    """How often the model runs: once a batch, more often where its first sequence has many windows.

    Args:
        boundaries: (B+1,) of the plan; batches: (b,) those to compute.
        passes: (N,) of each row. windows_a_pass: of one sequence that go in at once.

    Returns:
        (p,) the batch of each pass, and (p,) the window of its first row that it begins with.
    """
    counts = passes[boundaries[batches]]
    firsts = np.cumsum(counts) - counts
    begins = (np.arange(counts.sum()) - np.repeat(firsts, counts)) * windows_a_pass
    return np.repeat(batches, counts), begins


@dataclass(frozen=True, eq=False)
class RawBatch:
    """`positions` (B,) int64 in the shard, and the residues at each.

    windows: of the first, the first window to compute and the one after the last; all of others.
    """

    positions: Int64s
    residues: list[bytes]
    windows: tuple[int, int | None] = (0, None)


@dataclass(frozen=True, slots=True)
class Piece:
    """A window in a packed batch: rows start to stop are those of its sequence's own tokens.

    position: of the sequence in the shard. first, last: whether it is the sequence's first or
    last window, whose special token, in the row before or after, belongs to the sequence, too.
    """

    position: int
    start: int
    stop: int
    first: bool
    last: bool


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Windows laid end to end, and perhaps a dummy behind them. tokens: (T,) int64."""

    pieces: list[Piece]
    tokens: Tensor
    packing: Packing

    @cached_property
    def positions(self) -> list[int]:
        """The sequences that it holds windows of, each once."""
        return list(dict.fromkeys(piece.position for piece in self.pieces))

    @property
    def size(self) -> int:
        """Its tokens, the dummy's left out."""
        return self.packing.bounds[len(self.pieces)]

    def select(self, numbers: Sequence[int]) -> PackedBatch:
        """The windows of these numbers, as a batch of their own."""
        tokens, bounds = self.tokens.numpy(), self.packing.bounds
        pieces, parts, offset = [], [], 0
        for number in numbers:
            piece, shift = self.pieces[number], offset - bounds[number]
            pieces.append(replace(piece, start=piece.start + shift, stop=piece.stop + shift))
            parts.append(tokens[bounds[number] : bounds[number + 1]])
            offset += len(parts[-1])
        return _pack(pieces, parts)

    def halves(self) -> list[PackedBatch]:
        """Two batches of half its sequences each, in order; itself where it holds one."""
        last = set(self.positions[: len(self.positions) // 2])
        firsts = [n for n, piece in enumerate(self.pieces) if piece.position in last]
        others = range(len(firsts), len(self.pieces))
        return [self.select(numbers) for numbers in (firsts, others) if numbers]

    def cut(self, token_limit: int | None) -> list[PackedBatch]:
        """Batches of at most so many tokens, in order; a larger window is one by itself."""
        if token_limit is None or self.size <= token_limit:
            return [self]
        sizes = np.diff(self.packing.bounds[: len(self.pieces) + 1])
        bounds = plan_batches(sizes, token_limit).tolist()
        return [self.select(range(*pair)) for pair in pairwise(bounds)]

    def pin_memory(self) -> PackedBatch:
        """The same in page-locked memory; called by DataLoader."""
        packing = Packing(self.packing.bounds, self.packing.cu_seqlens.pin_memory())
        return PackedBatch(self.pieces, self.tokens.pin_memory(), packing)


class IndexBasedDataset(Dataset[RawBatch]):
    """Passes over a shard's index: item i is the i-th of those asked for.

    Row groups are read when a batch needs them, and the last one is kept, so that memory does not
    grow with the shard.
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
            residues, key = (self._group[1][name][row].as_py() for name in columns)
        # The digest decides under which ids the row will stand.
        if digest(residues) != key:
            raise damage_error(self._path, f"damaged in row {position}")
        return bytes(residues)


class VarlenCollator:
    """Packs a batch: each sequence encoded, cut by the policy, its windows laid end to end."""

    def __init__(self, encode: Encode, policy: LengthPolicy) -> None:
        self._encode, self._policy = encode, policy
        # A sequence in many windows comes again for each pass.
        self._last: tuple[int, Int64s] = (-1, np.empty(0, np.int64))

    def __call__(self, batch: RawBatch) -> PackedBatch:
        parts: list[Int64s] = []
        pieces: list[Piece] = []
        offset = 0
        wanted = slice(*batch.windows)
        for position, residues in zip(batch.positions.tolist(), batch.residues, strict=True):
            tokens = self._tokens(position, residues)
            windows = self._policy.cut(len(tokens) - SPECIALS)
            for number in range(len(windows))[wanted]:
                pieces.append(_piece(position, offset, windows, number))
                parts.append(_window_tokens(tokens, windows[number]))
                offset += len(parts[-1])
            wanted = slice(None)
        return _pack(pieces, parts)

    def _tokens(self, position: int, residues: bytes) -> Int64s:
        if self._last[0] != position:
            self._last = (position, self._encode(residues))
        return self._last[1]


def _pack(pieces: list[Piece], parts: list[Int64s]) -> PackedBatch:
    """Lay the tokens of pieces end to end, and a dummy behind them where they are too few."""
    missing = MIN_BATCH_TOKENS - sum(map(len, parts))
    dummy = [np.full(missing + SPECIALS, parts[0][0])] if missing > 0 else []
    parts = [*parts, *dummy]
    packing = Packing.of([len(part) for part in parts])
    return PackedBatch(pieces, torch.from_numpy(np.concatenate(parts)), packing)


def _piece(position: int, offset: int, windows: list[Window], number: int) -> Piece:
    """A window that begins, with its special token, at row `offset` of a batch."""
    window, own = windows[number], offset + 1 - windows[number].start
    return Piece(
        position=position,
        start=own + window.keep_start,
        stop=own + window.keep_stop,
        first=number == 0,
        last=number == len(windows) - 1,
    )


def _window_tokens(tokens: Int64s, window: Window) -> Int64s:
    """A window's tokens between the specials of its sequence's (n + 2,) tokens."""
    inner = tokens[1 + window.start : 1 + window.stop]
    return np.concatenate((tokens[:1], inner, tokens[-1:]))


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
