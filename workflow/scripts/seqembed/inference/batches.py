"""Plan batches over the rows of a shard that are to be computed, and pack them for the model.

A pass is one run of the model. A batch takes one pass, or several if its first sequence has more
windows than the token budget holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqembed.checkpoints.manifest_and_failures import Suspect
from seqembed.models.architectures import block_rows
from seqembed.models.encoders.attention import Packing
from seqembed.models.vocabularies import Specials
from seqembed.settings.lengths import LengthPolicy
from seqembed.settings.token_budget import whole_blocks

Int64s = NDArray[np.int64]
# Takes the residues of sequences; returns each one's token ids, special tokens included.
Encode = Callable[[Sequence[bytes]], list[Int64s]]

# The fewest tokens that go through the model at once. Matrix products of fewer rows take other code
# paths, which give other last bits (measured on CPU).
MIN_BATCH_TOKENS = 128


def plan_batches(
    tokens: Int64s, token_budget: int, begins: NDArray[np.bool_] | None = None
) -> Int64s:
    """Return the boundaries of batches over the n rows to compute, in order: (B + 1,).

    Batch b holds the rows at places boundaries[b] to boundaries[b + 1] - 1 of the n rows. A row
    with more tokens than the budget is alone in its batch.

    tokens: (n,) the tokens of each row in processing order, special tokens included; for a row that
    takes several passes, the tokens of its last pass. token_budget: the most tokens of a batch.
    begins: (n,) whether a row takes several passes, and so begins a batch; None if no row does.
    """
    boundaries, filled = [0], 0
    first = np.zeros(len(tokens), bool) if begins is None else begins
    for place, (size, begin) in enumerate(zip(tokens.tolist(), first.tolist(), strict=True)):
        if filled and (begin or filled + size > token_budget):
            boundaries.append(place)
            filled = 0
        filled += size
    if len(tokens):
        boundaries.append(len(tokens))
    return np.array(boundaries, dtype=np.int64)


def put_suspects_first(
    boundaries: Int64s, rows: Int64s, suspects: Mapping[int, Suspect]
) -> tuple[Int64s, Int64s]:
    """Return boundaries that put each suspect into its own batch, and the batches' order, (b,).

    boundaries: (B + 1,), from plan_batches. rows: (n,) the shard's rows to compute, ascending.
    suspects: by row, those of `rows` that may have caused a failure. The order: first suspects,
    then batches without suspects, and last suspects that ran out of memory: computing one of these
    may end the process, and by then all other rows are finished.
    """
    own = np.searchsorted(rows, list(suspects))
    boundaries = np.union1d(boundaries, [own, own + 1])
    turns = {
        place: turn + 1 if suspect.memory else turn - len(suspects)
        for turn, (place, suspect) in enumerate(zip(own.tolist(), suspects.values(), strict=True))
    }
    found = [turns.get(start, 0) for start in boundaries[:-1].tolist()]
    return boundaries, np.argsort(found, kind="stable")


def plan_passes(
    boundaries: Int64s, batches: Int64s, pass_counts: Int64s, windows_a_pass: int
) -> tuple[Int64s, Int64s]:
    """Divide batches into passes, which are single calls of the model.

    Returns two arrays, (p,), with an entry for each pass. The first has the number of the batch
    that the pass belongs to, from `batches`. The second has the index of the pass's first window,
    from 0 within the batch. Usually a batch is one pass. If the batch's first sequence has more
    than `windows_a_pass` windows, each pass but the last takes `windows_a_pass` of them; the last
    pass takes the rest of them and all other sequences. boundaries: from plan_batches, (B + 1,).
    batches: the numbers of the batches in the order of computing, (b,). pass_counts: (n,), for each
    row to compute, how many passes a batch would take if its sequence were the batch's first.
    """
    counts = pass_counts[boundaries[batches]]
    firsts = np.cumsum(counts) - counts
    begins = (np.arange(counts.sum()) - np.repeat(firsts, counts)) * windows_a_pass
    return np.repeat(batches, counts), begins


@dataclass(frozen=True, eq=False)
class RawBatch:
    """The residues of the sequences in one pass.

    positions: (B,) the sequences' rows in the shard. windows: which windows of the first sequence
    are in this pass, as the start and stop of a slice; stop None: up to the last. Of the other
    sequences, all windows are in this pass.
    """

    positions: Int64s
    residues: list[bytes]
    windows: tuple[int, int | None] = (0, None)


class PackedWindow(NamedTuple):
    """A window in a packed batch, and which of the batch's rows are kept for the window's sequence.

    position: the sequence's row in the shard. start, stop: rows `start` to `stop - 1` are kept.
    first, last: whether this is the sequence's first or last window. If `first`, its special tokens
    are right before row `start`; if `last`, the others are from row `stop` on.
    """

    position: int
    start: int
    stop: int
    first: bool
    last: bool


@dataclass(frozen=True)
class Filling:
    """How many rows go through the model for a batch: a multiple of `block`, at least `least`."""

    least: int = MIN_BATCH_TOKENS
    block: int = 1

    def rows(self, tokens: int) -> int:
        """Return the rows of a batch of `tokens` tokens."""
        return whole_blocks(max(tokens, self.least), self.block)


def choose_filling(device: torch.device, width: int, dtype: torch.dtype) -> Filling:
    """Return how batches are filled for a model of a width and dtype on a device."""
    return Filling() if device.type == "cpu" else Filling(block=block_rows(width, dtype.itemsize))


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """The tokens of windows, end to end, and behind them dummy windows that fill the batch.

    tokens: (T,) int64 token ids, those of special tokens and of the dummies included. packing:
    where in `tokens` each window and each dummy begins and ends.
    """

    windows: list[PackedWindow]
    tokens: Tensor
    packing: Packing
    filling: Filling = Filling()

    @cached_property
    def positions(self) -> list[int]:
        """The rows in the shard of the batch's sequences, in order, each row once."""
        return list(dict.fromkeys(window.position for window in self.windows))

    @property
    def size(self) -> int:
        """The number of tokens in the batch, without those of the dummies."""
        return self.packing.bounds[len(self.windows)]

    def select(self, numbers: Sequence[int], filling: Filling | None = None) -> PackedBatch:
        """Return a batch of the windows that have these numbers in `windows`.

        filling: how the new batch is filled; None: as this one.
        """
        tokens, bounds = self.tokens.numpy(), self.packing.bounds
        windows, parts, offset = [], [], 0
        for number in numbers:
            window, shift = self.windows[number], offset - bounds[number]
            moved = window._replace(start=window.start + shift, stop=window.stop + shift)
            windows.append(moved)
            parts.append(tokens[bounds[number] : bounds[number + 1]])
            offset += len(parts[-1])
        return pack(windows, parts, filling or self.filling)

    def split(self) -> list[PackedBatch]:
        """Return one batch for each sequence of this batch, in order."""
        numbers = groupby(range(len(self.windows)), lambda number: self.windows[number].position)
        return [self.select(list(own)) for _, own in numbers]

    def cut(self, token_limit: int | None) -> list[PackedBatch]:
        """Return parts of one window, or of at most `token_limit` tokens; None: no limit."""
        if token_limit is None or self.size <= token_limit:
            return [self]
        sizes = np.diff(self.packing.bounds[: len(self.windows) + 1])
        bounds = plan_batches(sizes, token_limit).tolist()
        return [self.select(range(*pair)) for pair in pairwise(bounds)]

    def pin_memory(self) -> PackedBatch:
        """Return this batch in page-locked memory: itself, if it is there."""
        if self.tokens.is_pinned():
            return self
        packing = replace(self.packing, cu_seqlens=self.packing.cu_seqlens.pin_memory())
        return replace(self, tokens=self.tokens.pin_memory(), packing=packing)


# A window's tokens, special tokens included, and, as in PackedWindow, which of its rows are kept,
# counted from the window's first row, and whether it is its sequence's first and last window.
_Piece = tuple[int, int, bool, bool, Int64s]


class VarlenCollator:
    """Packs batches: encodes the sequences, cuts long ones, and lays all windows end to end.

    encode: returns the token ids of sequences. policy: how to cut a sequence that is too long for
    one window. filling: how batches are filled.
    """

    def __init__(
        self, encode: Encode, policy: LengthPolicy, filling: Filling | None = None
    ) -> None:
        self._encode, self._policy, self._filling = encode, policy, filling or Filling()
        self._encode_first = lru_cache(maxsize=1)(lambda residues: encode([residues])[0])

    def __call__(self, batch: RawBatch) -> PackedBatch:
        windows: list[PackedWindow] = []
        parts: list[Int64s] = []
        offset, wanted = 0, slice(*batch.windows)
        tokens = self._encode_all(batch)
        long = self._policy.is_long(np.array([*map(len, tokens)]) - self._policy.specials.total)
        for position, own, cut in zip(batch.positions.tolist(), tokens, long.tolist(), strict=True):
            pieces = self._cut(own, wanted) if cut else _whole(own, self._policy.specials)
            for start, stop, first, last, part in pieces:
                windows.append(PackedWindow(position, offset + start, offset + stop, first, last))
                parts.append(part)
                offset += len(part)
            wanted = slice(None)
        return pack(windows, parts, self._filling)

    def _encode_all(self, batch: RawBatch) -> list[Int64s]:
        if batch.windows == (0, None):
            return self._encode(batch.residues)
        # A sequence that takes several passes is encoded for the first one only.
        return [self._encode_first(batch.residues[0]), *self._encode(batch.residues[1:])]

    def _cut(self, tokens: Int64s, wanted: slice) -> Iterator[_Piece]:
        """Yield the wanted windows of a sequence."""
        before, end = self._policy.specials.before, len(tokens) - self._policy.specials.after
        head, own, tail = tokens[:before], tokens[before:end], tokens[end:]
        cuts = self._policy.cut(len(own))
        for number in range(len(cuts))[wanted]:
            cut, shift = cuts[number], before - cuts[number].start
            part = np.concatenate((head, own[cut.start : cut.stop], tail))
            start, stop = cut.keep_start + shift, cut.keep_stop + shift
            yield start, stop, number == 0, number == len(cuts) - 1, part


def _whole(tokens: Int64s, specials: Specials) -> list[_Piece]:
    """Return the one window of a sequence that is not cut."""
    return [(specials.before, len(tokens) - specials.after, True, True, tokens)]


def pack(windows: list[PackedWindow], parts: list[Int64s], filling: Filling) -> PackedBatch:
    """Return a batch of windows. parts: each window's (n,) tokens, special tokens included."""
    lengths = [len(part) for part in parts]
    total = sum(lengths)
    if missing := filling.rows(total) - total:
        # The time of attention grows with the square of a dummy's length.
        longest = max(*lengths, MIN_BATCH_TOKENS)
        count, rest = divmod(missing, longest)
        lengths += [longest] * count + [rest] * (rest > 0)
        parts = [*parts, np.full(missing, parts[0][0])]
    tokens = torch.from_numpy(np.concatenate(parts))
    return PackedBatch(windows, tokens, Packing.of(lengths), filling)
