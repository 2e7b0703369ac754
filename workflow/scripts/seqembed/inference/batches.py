"""Plan batches over a shard's rows, read them from the shard's index, and pack them for the model.

A pass is one run of the model. A batch takes one pass, or several if its first sequence has more
windows than the token budget holds.
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

from seqembed.checkpoints.manifest_and_failures import Suspect
from seqembed.index.parquet import damage_error, damage_named, open_parquet, read_row_group
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.tokenization import SPECIALS
from seqembed.settings.lengths import LengthPolicy
from seqembed.storage.digests import digest

Int64s = NDArray[np.int64]
Encode = Callable[[bytes], Int64s]

# The fewest tokens that go through the model at once. Matrix products of fewer rows take other code
# paths, which give other last bits (measured on CPU).
MIN_BATCH_TOKENS = 128


def plan_batches(
    tokens: Int64s, token_budget: int, begins: NDArray[np.bool_] | None = None
) -> Int64s:
    """Return the boundaries of batches over a shard's rows, in order: (B + 1,).

    Batch b holds the rows boundaries[b] to boundaries[b + 1] - 1. The boundaries depend on the
    arguments alone, so a restarted worker plans the same batches. A row with more tokens than the
    budget is alone in its batch.

    tokens: (N,) the tokens of each row in processing order, special tokens included; for a row that
    takes several passes, the tokens of its last pass. token_budget: the most tokens of a batch.
    begins: (N,) whether a row takes several passes, and so begins a batch; None if no row does.
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


def put_suspects_first(
    boundaries: Int64s, rows: Sequence[int], suspects: Mapping[int, Suspect]
) -> tuple[Int64s, Int64s]:
    """Return boundaries that put each suspect into its own batch, and the batches to compute, (b,).

    boundaries: (B + 1,), from plan_batches. rows: the shard's rows to compute. suspects: by row,
    sequences that may have caused a failure. The batches are those that hold any of `rows`: first
    suspects, then batches without suspects, and last suspects that ran out of memory: computing
    one of these may end the process, and by then all other rows are finished.
    """
    own = np.array(list(suspects), np.int64)
    boundaries = np.union1d(boundaries, [own, own + 1])
    turns = {
        row: turn + 1 if suspect.memory else turn - len(suspects)
        for turn, (row, suspect) in enumerate(suspects.items())
    }
    batches = np.unique(np.searchsorted(boundaries, rows, side="right") - 1)
    found = [turns.get(start, 0) for start in boundaries[batches].tolist()]
    return boundaries, batches[np.argsort(found, kind="stable")]


def plan_passes(
    boundaries: Int64s, batches: Int64s, pass_counts: Int64s, windows_a_pass: int
) -> tuple[Int64s, Int64s]:
    """Divide batches into passes, which are single calls of the model.

    Returns two arrays, (p,), with an entry for each pass. The first has the number of the batch
    that the pass belongs to, from `batches`. The second has the index of the pass's first window,
    from 0 within the batch. Usually a batch is one pass. If the batch's first sequence has more
    than `windows_a_pass` windows, each pass but the last takes `windows_a_pass` of them; the last
    pass takes the rest of them and all other sequences. boundaries: from plan_batches, (B + 1,).
    batches: the numbers of the batches to compute, (b,). pass_counts: (N,), for each sequence of
    the shard, how many passes a batch would take if this sequence were its first.
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


@dataclass(frozen=True, slots=True)
class PackedWindow:
    """A window in a packed batch, and which of the batch's rows are kept for the window's sequence.

    position: the sequence's row in the shard. start, stop: rows `start` to `stop - 1` are kept.
    first, last: whether this is the sequence's first or last window. If `first`, row
    `start - 1` is the sequence's first special token; if `last`, row `stop` is its last one.
    """

    position: int
    start: int
    stop: int
    first: bool
    last: bool


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """The tokens of windows, end to end; if fewer than MIN_BATCH_TOKENS, a dummy window follows.

    tokens: (T,) int64 token ids, those of special tokens and of the dummy included. packing: where
    in `tokens` each window, and the dummy, begins and ends.
    """

    windows: list[PackedWindow]
    tokens: Tensor
    packing: Packing

    @cached_property
    def positions(self) -> list[int]:
        """The rows in the shard of the batch's sequences, in order, each row once."""
        return list(dict.fromkeys(window.position for window in self.windows))

    @property
    def size(self) -> int:
        """The number of tokens in the batch, without those of the dummy."""
        return self.packing.bounds[len(self.windows)]

    def select(self, numbers: Sequence[int]) -> PackedBatch:
        """Return a batch of the windows that have these numbers in `windows`."""
        tokens, bounds = self.tokens.numpy(), self.packing.bounds
        windows, parts, offset = [], [], 0
        for number in numbers:
            window, shift = self.windows[number], offset - bounds[number]
            windows.append(replace(window, start=window.start + shift, stop=window.stop + shift))
            parts.append(tokens[bounds[number] : bounds[number + 1]])
            offset += len(parts[-1])
        return _pack(windows, parts)

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
        """Return a copy of this batch in page-locked memory. DataLoader calls this method."""
        packing = Packing(self.packing.bounds, self.packing.cu_seqlens.pin_memory())
        return PackedBatch(self.windows, self.tokens.pin_memory(), packing)


class IndexBasedDataset(Dataset[RawBatch]):
    """The batches that a worker computes: item i holds the residues of pass i.

    index_path: the shard's index. boundaries: from put_suspects_first. passes: from plan_passes.
    windows_a_pass: the most windows of one sequence in a pass. To save memory, only the row group
    that was read last is kept. Reading an item raises IndexFormatError if the index is damaged.
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
        self._windows_a_pass = windows_a_pass
        groups = map(self._file.metadata.row_group, range(self._file.num_row_groups))
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
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
        stop = None if last else begin + self._windows_a_pass
        return RawBatch(positions, residues, (begin, stop))

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
    """Packs batches: encodes each sequence, cuts it into windows, and lays the windows end to end.

    encode: returns the token ids of residues, (n + 2,) int64, special tokens included. policy: how
    to cut a sequence that is too long for one window.
    """

    def __init__(self, encode: Encode, policy: LengthPolicy) -> None:
        # A sequence that takes several passes is encoded for the first one only.
        self._encode, self._policy = lru_cache(maxsize=1)(encode), policy

    def __call__(self, batch: RawBatch) -> PackedBatch:
        windows: list[PackedWindow] = []
        parts: list[Int64s] = []
        offset, wanted = 0, slice(*batch.windows)
        for position, residues in zip(batch.positions.tolist(), batch.residues, strict=True):
            tokens = self._encode(residues)
            cuts = self._policy.cut(len(tokens) - SPECIALS)
            for number in range(len(cuts))[wanted]:
                cut, first, last = cuts[number], number == 0, number == len(cuts) - 1
                # Row `offset` of the batch is the window's first special token.
                shift = offset + 1 - cut.start
                start, stop = shift + cut.keep_start, shift + cut.keep_stop
                windows.append(PackedWindow(position, start, stop, first, last))
                own = tokens[1 + cut.start : 1 + cut.stop]
                parts.append(np.concatenate((tokens[:1], own, tokens[-1:])))
                offset += len(parts[-1])
            wanted = slice(None)
        return _pack(windows, parts)


def _pack(windows: list[PackedWindow], parts: list[Int64s]) -> PackedBatch:
    """Return a batch of windows; parts: each window's tokens, special tokens included."""
    if (missing := MIN_BATCH_TOKENS - sum(map(len, parts))) > 0:
        parts = [*parts, np.full(missing + SPECIALS, parts[0][0])]
    packing = Packing.of([len(part) for part in parts])
    return PackedBatch(windows, torch.from_numpy(np.concatenate(parts)), packing)


def create_async_dataloader(
    dataset: IndexBasedDataset, collator: VarlenCollator, device: torch.device
) -> DataLoader[PackedBatch]:
    """Return a loader of the dataset's packed batches, in order.

    For a GPU, the batches are in page-locked memory. The loader starts no processes: each would
    import PyTorch, which takes longer than packing the batches.
    """
    pinned = device.type == "cuda"
    return DataLoader(dataset, None, collate_fn=collator, pin_memory=pinned)  # type: ignore[arg-type]
