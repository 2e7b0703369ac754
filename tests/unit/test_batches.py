"""The batch plan, and how batches are read from a shard's index and packed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from models_in_plain import dnabert_tokenizer
from worker_runs import make_project, make_sequences

from seqembed.checkpoints.manifest_and_failures import Suspect
from seqembed.errors import IndexFormatError
from seqembed.index import split
from seqembed.index.reader import read_id, read_shard_index
from seqembed.inference.batches import (
    MIN_BATCH_TOKENS,
    Filling,
    PackedBatch,
    PackedWindow,
    RawBatch,
    VarlenCollator,
    choose_filling,
    plan_batches,
    plan_passes,
    put_suspects_first,
)
from seqembed.inference.loader import BATCHES_AHEAD, IndexBasedDataset, create_async_dataloader
from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.vocabularies import ESM
from seqembed.settings.lengths import LengthPolicy

CPU = torch.device("cpu")
BOS, EOS = ESM.tokens.index("<cls>"), ESM.tokens.index("<eos>")
encode_all, encode_residues = ResidueTokenizer(ESM).encode_all, ResidueTokenizer(ESM).encode
DNA = dnabert_tokenizer()


@example([6, 4, 1], 10)  # the first two are exactly the budget
@given(st.lists(st.integers(1, 500), max_size=200), st.integers(1, 600))
def test_every_row_is_in_one_batch_that_is_full_and_within_the_budget(sizes, budget):
    tokens = np.array(sizes, dtype=np.int64)
    boundaries = plan_batches(tokens, budget)
    assert boundaries[0] == 0
    assert boundaries[-1] == len(tokens)
    for start, end in zip(boundaries[:-1], boundaries[1:], strict=True):
        assert start < end
        assert end - start == 1 or tokens[start:end].sum() <= budget
        assert end == len(tokens) or tokens[start : end + 1].sum() > budget


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=60), st.integers(1, 99))
def test_once_whole_batches_are_finished_the_others_are_planned_as_before(rows, budget):
    tokens = np.array([size for size, _ in rows], np.int64)
    begins = np.array([begin for _, begin in rows], bool)
    boundaries = plan_batches(tokens, budget, begins)
    for number, first in enumerate(boundaries):
        rest = plan_batches(tokens[first:], budget, begins[first:])
        assert rest.tolist() == (boundaries[number:] - first).tolist()


@given(st.sets(st.integers(0, 99), min_size=1), st.integers(1, 20), st.randoms())
def test_suspects_are_alone_and_come_first_or_last(pending, size, random):
    rows, plan = np.array(sorted(pending)), np.array([*range(0, len(pending), size), len(pending)])
    chosen = random.sample(rows.tolist(), random.randrange(len(rows) + 1))
    memory = sorted(random.random() < 0.3 for _ in chosen)
    suspects = {row: Suspect(reason="r", memory=m) for row, m in zip(chosen, memory, strict=True)}
    boundaries, batches = put_suspects_first(plan, rows, suspects)
    found = [rows[boundaries[n] : boundaries[n + 1]].tolist() for n in batches]
    first, last = len(memory) - sum(memory), len(found) - sum(memory)
    assert found[:first] + found[last:] == [[row] for row in suspects]
    others = [row for row in rows.tolist() if row not in suspects]
    assert sum(found[first:last], []) == others
    assert set(plan) <= set(boundaries)


SEQUENCES = ["M" * n for n in (9, 8, 7, 6, 5, 4)]


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A shard's index of SEQUENCES in several row groups."""
    monkeypatch.setattr(split, "GROUP_BYTES", 17)
    path = make_project(tmp_path, tmp_path / "no model", SEQUENCES).index()
    assert pq.ParquetFile(path).num_row_groups == 3
    return path


def policy(max_length: int, long_sequences: str = "truncate") -> LengthPolicy:
    return LengthPolicy(long_sequences=long_sequences, max_length=max_length)


def dataset_of(
    index: Path, boundaries: np.ndarray, batches: np.ndarray, rows: np.ndarray | None = None
) -> IndexBasedDataset:
    """Where every sequence is read at once; rows: those to compute, by default all."""
    windows = np.ones(boundaries[-1], np.int64)
    passes = plan_passes(boundaries, batches, windows, 1)
    rows = np.arange(boundaries[-1]) if rows is None else rows
    return IndexBasedDataset(index, read_shard_index(index).digests, rows, boundaries, passes, 1)


def test_one_row_group_is_in_memory_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(split, "GROUP_BYTES", 100_000)
    project = make_project(tmp_path, tmp_path / "no model", make_sequences([40_000] * 40))
    assert pq.ParquetFile(project.index()).num_row_groups == 20
    dataset = dataset_of(project.index(), np.arange(41), np.arange(40))
    before = pa.total_allocated_bytes()
    taken = []
    for item in range(40):
        assert len(dataset[item].residues[0]) == 40_000
        taken.append(pa.total_allocated_bytes() - before)
    # A row group has 80,000 residues, all have 1,600,000.
    assert max(taken) < 400_000


@pytest.mark.parametrize(
    ("rows", "groups"), [([0, 1, 2, 3, 4, 5], [0, 1, 2]), ([1, 5], [0, 2]), ([2], [1])]
)
def test_each_row_group_is_read_once_and_no_more_than_needed(rows, groups, index, monkeypatch):
    read, seen = pq.ParquetFile.read_row_group, []

    def counted(self, number, columns):
        seen.append((number, columns))
        return read(self, number, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    for bounds in (range(len(rows) + 1), [0, len(rows)]):
        batches = np.arange(len(bounds) - 1)
        dataset = dataset_of(index, np.array(bounds), batches, np.array(rows))
        assert seen == []
        found = [residues.decode() for item in batches for residues in dataset[item].residues]
        assert found == [SEQUENCES[row] for row in rows]
        assert seen == [(number, ["residues"]) for number in groups]
        seen.clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda column: pa.array([b"W" * len(r.as_py()) for r in column]), "damaged in row 0; "),
        (lambda column: column.cast(pa.string()), "column residues is of string, not binary"),
    ],
)
def test_other_residues_are_refused(change, message, index):
    """The file is whole, and yet not what was split."""
    table = pq.read_table(index)
    place = table.schema.get_field_index("residues")
    pq.write_table(table.set_column(place, "residues", change(table["residues"])), index)
    with pytest.raises(IndexFormatError, match=f"^{index}: .*{message}"):
        dataset_of(index, np.arange(7), np.arange(6))[0]


def test_a_batch_is_read_from_the_row_groups_it_lies_in(index):
    for count in range(1, 7):
        for rows in combinations(range(6), count):
            batch = dataset_of(index, np.array([0, count]), np.arange(1), np.array(rows))[0]
            assert batch.positions.tolist() == list(rows)
            assert [residues.decode() for residues in batch.residues] == [
                SEQUENCES[row] for row in rows
            ]


def test_a_damaged_row_is_named_among_others(index):
    table = pq.read_table(index)
    residues = [*table["residues"].to_pylist()[:3], b"MMMMMW", *table["residues"].to_pylist()[4:]]
    place = table.schema.get_field_index("residues")
    pq.write_table(table.set_column(place, "residues", pa.array(residues)), index, row_group_size=4)
    dataset = dataset_of(index, np.array([0, 1, 4]), np.arange(2), np.array([0, 1, 3, 5]))
    assert len(dataset[0].residues) == 1
    with pytest.raises(IndexFormatError, match=f"^{index}: damaged in row 3; "):
        dataset[1]
    # What is not computed is not checked.
    assert len(dataset_of(index, np.array([0, 2]), np.arange(1), np.array([2, 4]))[0].residues) == 2


def test_no_flipped_bit_of_a_shard_changes_what_is_read(tmp_path):
    project = make_project(tmp_path, tmp_path / "no model", make_sequences(range(1, 40)))
    path, damaged = project.index(), tmp_path / "damaged.parquet"
    content, choice, refused = path.read_bytes(), random.Random(4), 0

    def read(path: Path) -> Any:
        shard = read_shard_index(path)
        dataset = dataset_of(path, np.arange(40), np.arange(39))
        columns = [shard.rows, shard.lengths, shard.tokens, shard.digests]
        names = [read_id(path, row) for row in range(39)]
        return names, [dataset[n].residues for n in range(39)], [c.tolist() for c in columns]

    expected = read(path)
    for _ in range(300):
        place, bit = choice.randrange(len(content)), 1 << choice.randrange(8)
        changed = bytes([content[place] ^ bit])
        damaged.write_bytes(content[:place] + changed + content[place + 1 :])
        try:
            assert read(damaged) == expected
        except IndexFormatError as error:
            assert str(error).startswith(str(damaged))
            refused += 1
    assert refused > 200


def test_a_shard_without_rows_has_no_batches(tmp_path):
    project = make_project(tmp_path, tmp_path / "no model", ["M"], world_size=2)
    boundaries = plan_batches(np.empty(0, np.int64), 10)
    dataset = dataset_of(project.index(1), *put_suspects_first(boundaries, np.arange(0), {}))
    collator = VarlenCollator(encode_all, policy(5))
    assert list(create_async_dataloader(dataset, collator, CPU)) == []


def packed(sequences: list[str], max_length: int = 1022, long_sequences: str = "truncate"):
    residues = [s.encode() for s in sequences]
    batch = RawBatch(np.arange(7, 7 + len(residues)), residues)
    return VarlenCollator(encode_all, policy(max_length, long_sequences))(batch)


def pack_one_by_one(
    batch: RawBatch, encode: Callable[[bytes], np.ndarray], limits: LengthPolicy
) -> tuple[list[int], tuple[int, ...], list[PackedWindow]]:
    """The tokens, bounds and windows of a packed batch, each sequence taken by itself."""
    windows, parts, wanted = [], [], slice(*batch.windows)
    for position, residues in zip(batch.positions.tolist(), batch.residues, strict=True):
        tokens = encode(residues).tolist()
        cuts = limits.cut(len(tokens) - 2)
        for number, cut in list(enumerate(cuts))[wanted]:
            shift = 1 + sum(map(len, parts)) - cut.start
            kept = cut.keep_start + shift, cut.keep_stop + shift
            windows.append(PackedWindow(position, *kept, number == 0, number == len(cuts) - 1))
            parts.append([tokens[0], *tokens[1:-1][cut.start : cut.stop], tokens[-1]])
        wanted = slice(None)
    if (missing := MIN_BATCH_TOKENS - sum(map(len, parts))) > 0:
        parts.append([parts[0][0]] * missing)
    return sum(parts, []), tuple(accumulate(map(len, parts), initial=0)), windows


@pytest.mark.parametrize("tokenizer", [ResidueTokenizer(ESM), DNA], ids=["ESM-2", "DNABERT"])
@given(
    residues=st.lists(st.text("ACGTN", min_size=1, max_size=90), min_size=1, max_size=9),
    limits=st.builds(policy, st.integers(1, 40), st.sampled_from(["window", "truncate"]))
    | st.just(policy(0, "full")),
    at_once=st.integers(1, 4),
)
def test_a_batch_is_what_its_sequences_one_by_one_would_be(tokenizer, residues, limits, at_once):
    sequences = [text.encode() for text in residues]
    collate, positions = (
        VarlenCollator(tokenizer.encode_all, limits),
        np.arange(3, 3 + len(residues)),
    )
    count = len(limits.cut(tokenizer.count(sequences[0])))
    passes = [(begin, begin + at_once) for begin in range(0, count - at_once, at_once)]
    batches = [RawBatch(positions[:1], sequences[:1], windows) for windows in passes]
    rest = RawBatch(positions, sequences, (len(passes) * at_once, None))
    for batch in [*batches, rest]:
        found = collate(batch)
        tokens, bounds, windows = pack_one_by_one(batch, tokenizer.encode, limits)
        assert found.tokens.tolist() == tokens
        assert (found.tokens.dtype, found.tokens.is_contiguous()) == (torch.int64, True)
        assert (found.packing.bounds, found.windows) == (bounds, windows)
        assert found.packing.cu_seqlens.tolist() == list(bounds)


def test_a_sequence_of_several_passes_is_encoded_once():
    encoded = []

    def encode(sequences: Sequence[bytes]) -> list[np.ndarray]:
        encoded.extend(sequences)
        return encode_all(sequences)

    collate, long = VarlenCollator(encode, policy(4, "window")), b"MKVLAGTRE"
    for windows in ((0, 2), (2, 4)):
        collate(RawBatch(np.array([0]), [bytes(bytearray(long))], windows))
    collate(RawBatch(np.array([0, 1]), [long, b"MK"], (4, None)))
    assert encoded == [long, b"MK"]


@pytest.mark.parametrize(
    ("lengths", "dummy"),
    [([1], 125), ([124], 2), ([125], 1), ([126], 0), ([127], 0), ([60, 64], 0)],
)
def test_a_batch_is_filled_up_by_a_dummy(lengths, dummy):
    batch = packed(["M" * n for n in lengths])
    assert batch.positions == list(range(7, 7 + len(lengths)))
    sizes = [n + 2 for n in lengths]
    if dummy:
        sizes.append(MIN_BATCH_TOKENS - sum(sizes))
        assert sizes[-1] == dummy
    assert batch.packing.cu_seqlens.tolist() == np.cumsum([0, *sizes]).tolist()
    assert len(batch.tokens) == sum(sizes) >= MIN_BATCH_TOKENS
    assert (batch.tokens.dtype, batch.packing.cu_seqlens.dtype) == (torch.int64, torch.int32)


@pytest.mark.parametrize(
    ("lengths", "dummies"),
    [
        ([198, 98], [200, 200, 200, 124]),
        ([1023, 975], [46]),
        ([1022], []),
        ([10], [128] * 7 + [116]),
        ([2500], [570]),
    ],
)
def test_for_a_gpu_a_batch_is_whole_blocks_and_no_dummy_is_longer_than_the_rest(lengths, dummies):
    residues = [b"M" * n for n in lengths]
    collate = VarlenCollator(
        ResidueTokenizer(ESM).encode_all, policy(0, "full"), Filling(block=1024)
    )
    batch = collate(RawBatch(np.arange(len(lengths)), residues))
    sizes = [n + 2 for n in lengths] + dummies
    assert np.diff(batch.packing.bounds).tolist() == sizes
    assert len(batch.tokens) == sum(sizes) and sum(sizes) % 1024 == 0
    assert batch.size == sum(lengths) + 2 * len(lengths)
    (alone,) = batch.select([0]).cut(None)
    assert len(alone.tokens) == -(-(lengths[0] + 2) // 1024) * 1024
    assert len(batch.select([0], Filling()).tokens) == max(lengths[0] + 2, MIN_BATCH_TOKENS)


@pytest.mark.parametrize(
    ("device", "width", "dtype", "rows"),
    [
        ("cpu", 1280, torch.float32, 300),
        ("cuda", 320, torch.float16, 16_384),
        ("cuda", 1280, torch.bfloat16, 16_384),
        ("cuda", 2560, torch.float16, 8192),
        ("cuda", 1280, torch.float32, 4096),
    ],
)
def test_a_gpus_batches_are_filled_to_blocks_of_the_model_and_precision(device, width, dtype, rows):
    assert choose_filling(torch.device(device), width, dtype).rows(300) == rows


def test_sequences_lie_end_to_end_each_with_its_specials():
    sequences = ["MKV" * 40, "W", "LAG"]
    batch = packed(sequences)
    bounds = batch.packing.cu_seqlens.tolist()
    for number, sequence in enumerate(sequences):
        tokens = batch.tokens[bounds[number] : bounds[number + 1]].numpy()
        assert (tokens[0], tokens[-1]) == (BOS, EOS)
        np.testing.assert_array_equal(tokens, encode_residues(sequence.encode()))


def test_sequences_are_cut_to_the_maximum_length():
    whole, cut = packed(["MKVLAG" * 50]), packed(["MKVLAG" * 50], 200)
    assert cut.packing.cu_seqlens.tolist() == [0, 202]
    assert cut.tokens[:-1].tolist() == whole.tokens[:201].tolist()
    assert cut.tokens[-1] == EOS


def test_a_piece_says_where_its_own_rows_are():
    batch = packed(["MKV" * 50, "W"])
    assert [(p.position, p.start, p.stop, p.first, p.last) for p in batch.windows] == [
        (7, 1, 151, True, True),
        (8, 153, 154, True, True),
    ]


def test_windows_hold_their_tokens_and_keep_each_once():
    sequence = "MKVLAGTREWQY" * 60
    tokens = encode_residues(sequence.encode())
    batch = packed(["W", sequence], 100, "window")
    assert batch.positions == [7, 8]
    own = batch.windows[1:]
    assert [piece.first for piece in own] == [True] + [False] * (len(own) - 1)
    assert [piece.last for piece in own] == [False] * (len(own) - 1) + [True]
    kept = np.concatenate([batch.tokens[piece.start : piece.stop] for piece in own])
    np.testing.assert_array_equal(kept, tokens[1:-1])
    bounds = batch.packing.bounds[1:]
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        assert stop - start == 102
        assert (batch.tokens[start], batch.tokens[stop - 1]) == (BOS, EOS)
        inside = batch.tokens[start + 1 : stop - 1].numpy().tobytes()
        assert inside in tokens.tobytes()


@pytest.mark.parametrize(
    ("passes", "at_once", "batches", "begins"),
    [
        ([1, 1, 1], 1, [0, 1], [0, 0]),
        ([3, 1, 1], 2, [0, 0, 0, 1], [0, 2, 4, 0]),
        ([1, 2, 1], 9, [0, 1, 1], [0, 0, 9]),
    ],
)
def test_one_sequence_in_many_windows_takes_several_passes(passes, at_once, batches, begins):
    # Two batches: the first row alone, the others together.
    found = plan_passes(np.array([0, 1, 3]), np.array([0, 1]), np.array(passes), at_once)
    assert [part.tolist() for part in found] == [batches, begins]
    first = plan_passes(np.array([0, 1, 3]), np.array([0]), np.array(passes), at_once)
    assert first[0].tolist() == [0] * passes[0]


def test_the_passes_of_a_sequence_hold_its_windows_once(index):
    limits, tokens = policy(4, "window"), np.array([9, 8, 7, 6, 5, 4])
    passes = limits.passes(tokens, 12)
    assert passes.tolist() == [2, 2, 2, 1, 1, 1]
    # The last pass of the third sequence, of one window, takes the last sequence in, too.
    boundaries = np.array([0, 1, 2, 4, 5, 6])
    planned = plan_passes(boundaries, np.arange(5), passes, limits.windows_a_pass(12))
    digests = read_shard_index(index).digests
    at_once = limits.windows_a_pass(12)
    dataset = IndexBasedDataset(index, digests, np.arange(6), boundaries, planned, at_once)
    found = list(create_async_dataloader(dataset, VarlenCollator(encode_all, limits), CPU))
    held = [[piece.position for piece in batch.windows] for batch in found]
    assert held == [[0, 0], [0, 0], [1, 1], [1], [2, 2], [2, 3, 3], [4, 4], [5]]
    pieces = [piece for batch in found for piece in batch.windows]
    assert sum(piece.stop - piece.start for piece in pieces) == 9 + 8 + 7 + 6 + 5 + 4


def test_a_sequence_of_several_passes_takes_in_rows_behind_a_gap(index):
    limits, rows = policy(4, "window"), np.array([0, 2, 5])
    tokens = np.array([9, 7, 4])
    passes, at_once = limits.passes(tokens, 12), limits.windows_a_pass(12)
    boundaries = plan_batches(limits.last_pass(tokens, 12), 12, passes > 1)
    assert (passes.tolist(), boundaries.tolist()) == ([2, 2, 1], [0, 1, 3])
    planned = plan_passes(boundaries, np.arange(2), passes, at_once)
    digests = read_shard_index(index).digests
    dataset = IndexBasedDataset(index, digests, rows, boundaries, planned, at_once)
    found = list(create_async_dataloader(dataset, VarlenCollator(encode_all, limits), CPU))
    held = [[piece.position for piece in batch.windows] for batch in found]
    assert held == [[0, 0], [0, 0], [2, 2], [2, 5]]
    kept = [piece.stop - piece.start for batch in found for piece in batch.windows]
    assert sum(kept) == 9 + 7 + 4


def test_a_row_of_several_passes_begins_its_batch():
    lasts, begins = np.array([3, 4, 4, 5, 2]), np.array([1, 0, 1, 1, 0], bool)
    assert plan_batches(lasts, 10, begins).tolist() == [0, 2, 3, 5]


def test_the_loader_gives_packed_batches_in_order(index):
    dataset = dataset_of(index, np.array([0, 2, 3, 6]), np.array([0, 2]))
    loader = create_async_dataloader(dataset, VarlenCollator(encode_all, policy(5)), CPU)
    for _ in range(2):
        batches = list(loader)
        assert [batch.positions for batch in batches] == [[0, 1], [3, 4, 5]]
        assert batches[0].packing.cu_seqlens.tolist()[:3] == [0, 7, 14]
        assert not batches[0].tokens.is_pinned()


def load_for_a_gpu(
    index: Path, monkeypatch, pin: Callable[[PackedBatch], PackedBatch]
) -> Iterator[PackedBatch]:
    """The loader of a GPU over batches of one row each; `pin` in place of page-locked memory."""
    monkeypatch.setattr(PackedBatch, "pin_memory", pin)
    dataset = dataset_of(index, np.arange(7), np.arange(6))
    collator = VarlenCollator(encode_all, policy(5))
    return iter(create_async_dataloader(dataset, collator, torch.device("cuda")))


def test_for_a_gpu_batches_are_packed_and_pinned_in_a_thread_ahead(index, monkeypatch):
    pinned, ahead = [], threading.Event()

    def pin(batch: PackedBatch) -> PackedBatch:
        pinned.append((batch, threading.current_thread()))
        if len(pinned) == 1 + BATCHES_AHEAD:
            ahead.set()
        return batch

    loader = load_for_a_gpu(index, monkeypatch, pin)
    batches = [next(loader)]
    assert ahead.wait(20)
    batches += loader
    assert batches == [batch for batch, _ in pinned]
    assert [batch.positions for batch in batches] == [[n] for n in range(6)]
    assert threading.main_thread() not in {thread for _, thread in pinned}


def test_an_error_ahead_is_raised_in_its_place(index, monkeypatch):
    table = pq.read_table(index)
    place = table.schema.get_field_index("residues")
    changed = pa.array([*table["residues"].to_pylist()[:2], *[b"W"] * 4])
    pq.write_table(table.set_column(place, "residues", changed), index)
    loader = load_for_a_gpu(index, monkeypatch, lambda batch: batch)
    assert [next(loader).positions for _ in range(2)] == [[0], [1]]
    with pytest.raises(IndexFormatError, match="damaged in row 2; "):
        next(loader)


def test_a_cpu_packs_a_batch_when_it_is_asked_for(index):
    encoded = []
    dataset = dataset_of(index, np.arange(7), np.arange(6))
    collator = VarlenCollator(lambda some: encoded.append(some) or encode_all(some), policy(5))
    loader = iter(create_async_dataloader(dataset, collator, CPU))
    assert not encoded
    next(loader)
    assert len(encoded) == 1
