"""The batch plan, and how batches are read from a shard's index and packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worker_runs import make_project

from seqembed import split
from seqembed.batches import (
    MIN_BATCH_TOKENS,
    IndexBasedDataset,
    RawBatch,
    VarlenCollator,
    create_async_dataloader,
    pending_batches,
    plan_batches,
)
from seqembed.errors import ModelError
from seqembed.models.esm2 import BOS, EOS, encode_residues

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("tokens", "budget", "boundaries"),
    [
        ([], 10, [0]),
        ([10], 10, [0, 1]),
        ([11], 10, [0, 1]),
        ([11, 1], 10, [0, 1, 2]),
        ([6, 4, 1], 10, [0, 2, 3]),
        ([6, 5, 5], 10, [0, 1, 3]),
    ],
)
def test_plan(tokens, budget, boundaries):
    assert plan_batches(np.array(tokens, dtype=np.int64), budget).tolist() == boundaries


@given(st.lists(st.integers(1, 500), max_size=200), st.integers(1, 600))
def test_every_row_is_in_one_batch_within_the_budget(sizes, budget):
    tokens = np.array(sorted(sizes, reverse=True), dtype=np.int64)
    boundaries = plan_batches(tokens, budget)
    assert boundaries[0] == 0
    assert boundaries[-1] == len(tokens)
    for start, end in zip(boundaries[:-1], boundaries[1:], strict=True):
        assert start < end
        assert end - start == 1 or tokens[start:end].sum() <= budget


@given(st.lists(st.integers(1, 500), min_size=1, max_size=200), st.integers(1, 600))
def test_no_batch_ends_while_the_next_row_still_fits(sizes, budget):
    tokens = np.array(sizes, dtype=np.int64)
    boundaries = plan_batches(tokens, budget)
    for start, end in zip(boundaries[:-2], boundaries[1:-1], strict=True):
        assert tokens[start : end + 1].sum() > budget


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        plan_batches(np.array([1]), 0)


@pytest.mark.parametrize(
    ("boundaries", "rows", "batches"),
    [
        ([0], [], []),
        ([0, 3, 4, 9], [], []),
        ([0, 3, 4, 9], [2], [0]),
        ([0, 3, 4, 9], [3], [1]),
        ([0, 3, 4, 9], [8, 0, 1, 4], [0, 2]),
        ([0, 3, 4, 9], list(range(9)), [0, 1, 2]),
    ],
)
def test_pending(boundaries, rows, batches):
    found = pending_batches(np.array(boundaries, np.int64), rows)
    assert (found.tolist(), found.dtype) == (batches, np.int64)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 99), st.randoms())
def test_pending_batches_hold_the_rows_and_no_other_batch_does(sizes, budget, random):
    boundaries = plan_batches(np.array(sizes, np.int64), budget)
    rows = [row for row in range(len(sizes)) if random.random() < 0.2]
    found = pending_batches(boundaries, rows).tolist()
    for batch, (start, end) in enumerate(zip(boundaries[:-1], boundaries[1:], strict=True)):
        assert (batch in found) == any(start <= row < end for row in rows)


SEQUENCES = ["M" * n for n in (9, 8, 7, 6, 5, 4)]


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A shard's index of SEQUENCES in several row groups."""
    monkeypatch.setattr(split, "GROUP_BYTES", 17)
    path = make_project(tmp_path, tmp_path / "no model", SEQUENCES).index()
    assert pq.ParquetFile(path).num_row_groups == 3
    return path


def test_items_are_the_batches_asked_for(index):
    dataset = IndexBasedDataset(index, np.array([0, 1, 4, 6]), np.array([1, 2]))
    assert len(dataset) == 2
    first, second = dataset[0], dataset[1]
    assert (first.positions.tolist(), second.positions.tolist()) == ([1, 2, 3], [4, 5])
    assert first.residues == [s.encode() for s in SEQUENCES[1:4]]
    assert second.residues == [s.encode() for s in SEQUENCES[4:]]
    assert dataset[0].residues == first.residues  # and back again


def test_each_row_group_is_read_once_and_residues_only(index, monkeypatch):
    read, seen = pq.ParquetFile.read_row_group, []

    def counted(self, number, columns):
        seen.append((number, columns))
        return read(self, number, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    dataset = IndexBasedDataset(index, np.arange(7), np.arange(6))
    assert seen == []
    assert [dataset[i].residues[0].decode() for i in range(6)] == SEQUENCES
    assert seen == [(number, ["residues"]) for number in range(3)]


def test_a_shard_without_rows_has_no_batches(tmp_path):
    project = make_project(tmp_path, tmp_path / "no model", ["M"], world_size=2)
    boundaries = plan_batches(np.empty(0, np.int64), 10)
    dataset = IndexBasedDataset(project.index(1), boundaries, pending_batches(boundaries, []))
    collator = VarlenCollator(encode_residues, 5)
    assert list(create_async_dataloader(dataset, collator, CPU)) == []


def packed(sequences: list[str], max_length: int = 1022):
    residues = [s.encode() for s in sequences]
    batch = RawBatch(np.arange(7, 7 + len(residues)), residues)
    return VarlenCollator(encode_residues, max_length)(batch)


@pytest.mark.parametrize(
    ("lengths", "dummy"),
    [([1], 125), ([124], 2), ([125], 1), ([126], 0), ([127], 0), ([60, 64], 0)],
)
def test_a_batch_is_filled_up_by_a_dummy(lengths, dummy):
    batch = packed(["M" * n for n in lengths])
    assert batch.positions.tolist() == list(range(7, 7 + len(lengths)))
    sizes = [n + 2 for n in lengths]
    if dummy:
        # As long as what is missing, and its BOS and EOS besides.
        sizes.append(MIN_BATCH_TOKENS - sum(sizes) + 2)
        assert sizes[-1] == dummy + 2
    assert batch.cu_seqlens.tolist() == np.cumsum([0, *sizes]).tolist()
    assert len(batch.tokens) == sum(sizes) >= MIN_BATCH_TOKENS
    assert (batch.tokens.dtype, batch.cu_seqlens.dtype) == (torch.int64, torch.int32)


def test_sequences_lie_end_to_end_each_with_its_specials():
    sequences = ["MKV" * 40, "W", "LAG"]
    batch = packed(sequences)
    bounds = batch.cu_seqlens.tolist()
    for number, sequence in enumerate(sequences):
        tokens = batch.tokens[bounds[number] : bounds[number + 1]].numpy()
        assert (tokens[0], tokens[-1]) == (BOS, EOS)
        np.testing.assert_array_equal(tokens, encode_residues(sequence.encode()))


def test_sequences_are_cut_to_the_maximum_length():
    whole, cut = packed(["MKVLAG" * 50]), packed(["MKVLAG" * 50], 200)
    assert cut.cu_seqlens.tolist() == [0, 202]
    assert cut.tokens[:-1].tolist() == whole.tokens[:201].tolist()
    assert cut.tokens[-1] == EOS


def test_a_letter_that_the_model_lacks_is_an_error():
    with pytest.raises(ModelError, match="residue 2, 'J'"):
        packed(["MJ"])


def test_the_loader_gives_packed_batches_in_order(index):
    dataset = IndexBasedDataset(index, np.array([0, 2, 3, 6]), np.array([0, 2]))
    loader = create_async_dataloader(dataset, VarlenCollator(encode_residues, 5), CPU)
    for _ in range(2):
        batches = list(loader)
        assert [batch.positions.tolist() for batch in batches] == [[0, 1], [3, 4, 5]]
        assert batches[0].cu_seqlens.tolist()[:3] == [0, 7, 14]
        assert not batches[0].tokens.is_pinned()
