"""Inference: batches in order, non-finite rows refused, and a row's bits its own."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from worker_runs import make_sequences

from seqembed.batches import PackedBatch, RawBatch, VarlenCollator, plan_batches
from seqembed.errors import NonFiniteError
from seqembed.inference import AsyncInferenceRunner, pool_mean
from seqembed.models.esm2 import Esm2, Esm2Architecture, encode_residues

CPU = torch.device("cpu")
# The second is no multiple of any vector's width.
SIZES = [Esm2Architecture(3, 64, 4, 256), Esm2Architecture(2, 36, 3, 52)]


@functools.cache
def model_of(architecture: Esm2Architecture) -> Esm2:
    torch.manual_seed(11)
    model = Esm2(architecture).eval().requires_grad_(False)
    for layer in model.layers:
        # Attention far from flat: else neighbours would not be noticed.
        layer.qkv.weight.mul_(3)
    return model


def pack(sequences: Sequence[str], budget: int) -> Iterable[PackedBatch]:
    """The sequences, in their order, in batches."""
    collate = VarlenCollator(encode_residues, 1022)
    residues = [sequence.encode() for sequence in sequences]
    bounds = plan_batches(np.array([len(r) + 2 for r in residues]), budget).tolist()
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        yield collate(RawBatch(np.arange(start, stop), residues[start:stop]))


def embed(
    architecture: Esm2Architecture, sequences: Sequence[str], budget: int = 4096, threads: int = 1
) -> np.ndarray:
    """(N, D) rows, in the order of the sequences."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runner = AsyncInferenceRunner(model_of(architecture), CPU)
        parts = list(runner.run(pack(sequences, budget)))
    finally:
        torch.set_num_threads(before)
    positions = np.concatenate([part.positions for part in parts])
    assert positions.tolist() == list(range(len(sequences)))
    return np.concatenate([part.rows for part in parts])


@functools.cache
def alone(architecture: Esm2Architecture, sequence: str) -> bytes:
    """The bytes of a sequence's row when nothing else is in its batch but the dummy."""
    return embed(architecture, [sequence])[0].tobytes()


# From 32,768 numbers on, PyTorch shares the work of one mean out among threads.
LENGTHS = st.one_of(st.integers(1, 20), st.integers(1, 300), st.integers(915, 1022))
POOL = {n: make_sequences([n], seed=n)[0] for n in range(1, 1023)}


@pytest.mark.parametrize("architecture", SIZES, ids=["64 wide", "36 wide"])
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=12, unique=True),
    budget=st.sampled_from([1, 140, 256, 900, 2048, 8192]),
    threads=st.sampled_from([1, 2]),
)
def test_a_row_is_a_function_of_its_sequence_to_the_bit(architecture, lengths, budget, threads):
    sequences = [POOL[n] for n in lengths]
    rows = embed(architecture, sequences, budget, threads)
    for sequence, row in zip(sequences, rows, strict=True):
        assert row.tobytes() == alone(architecture, sequence), len(sequence)


@pytest.mark.parametrize("architecture", SIZES, ids=["64 wide", "36 wide"])
def test_every_short_sequence_alone_and_among_all(architecture):
    sequences = [POOL[n] for n in range(1, 140, 3)]
    for threads in (1, 2):
        rows = embed(architecture, sequences, 8192, threads)
        assert len({row.tobytes() for row in rows}) == len(sequences)
        for sequence, row in zip(sequences, rows, strict=True):
            assert row.tobytes() == alone(architecture, sequence), len(sequence)


def test_the_mean_is_over_residues_only():
    rows = torch.arange(30, dtype=torch.float32).reshape(10, 3) ** 2
    pooled = pool_mean(rows, [0, 3, 7, 10], 2)
    assert (pooled.shape, pooled.dtype) == ((2, 3), torch.float32)
    torch.testing.assert_close(pooled[0], rows[1], rtol=0, atol=0)
    torch.testing.assert_close(pooled[1], rows[4:6].mean(0))


def test_half_rows_are_averaged_in_single_precision():
    # Their sum is over fp16's range, and their mean between two of its numbers.
    rows = torch.tensor([2048.0, 2050.0] * 1501, dtype=torch.float16)[:, None]
    assert pool_mean(rows, [0, 3002], 1).tolist() == [[2049.0]]


class Echo(nn.Module):
    """A model whose rows are the tokens; it notes how many batches it has seen."""

    def __init__(self, bad: dict[int, float] | None = None) -> None:
        super().__init__()
        self.bad, self.calls = bad or {}, 0

    def forward(self, tokens: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        assert torch.is_inference_mode_enabled()
        rows = tokens.float()[:, None].repeat(1, 3)
        rows[1] = self.bad.get(self.calls, rows[1])
        return rows


def test_batches_come_in_order_with_their_tokens_and_without_the_dummy():
    sequences = [POOL[n] for n in (130, 40, 50, 60, 3)]
    parts = list(AsyncInferenceRunner(Echo(), CPU).run(pack(sequences, 160)))
    assert [part.positions.tolist() for part in parts] == [[0], [1, 2, 3], [4]]
    assert [part.tokens for part in parts] == [132, 42 + 52 + 62, 5]
    assert [part.rows.shape for part in parts] == [(1, 3), (3, 3), (1, 3)]
    assert {part.rows.dtype for part in parts} == {np.dtype(np.float32)}


def test_batches_are_asked_for_when_they_are_needed():
    model = Echo()
    rows = AsyncInferenceRunner(model, CPU).run(pack([POOL[200]] * 4, 1))
    assert model.calls == 0
    next(rows)
    assert model.calls == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_refused_after_those_before(value):
    rows = AsyncInferenceRunner(Echo({2: value}), CPU).run(pack([POOL[50]] * 9, 160))
    assert next(rows).positions.tolist() == [0, 1, 2]
    with pytest.raises(NonFiniteError, match="rows 3 to 5 of the shard; .*fp32") as caught:
        next(rows)
    assert caught.value.positions == [3, 4, 5]
