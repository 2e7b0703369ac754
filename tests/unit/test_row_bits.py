"""A row is a function of its sequence and the recipe, to the bit, in every family."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest
import torch
from batch_runs import (
    POOL,
    SMALL,
    TRUE_WIDTHS,
    TRUNCATE,
    WINDOW,
    embed,
    model_of,
    name_of,
    outputs,
    outputs_of,
    pack_for,
    runner_of,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from worker_runs import make_sequences

from seqembed.inference.batches import Filling
from seqembed.inference.rows import Outputs
from seqembed.models.architectures import Architecture
from seqembed.models.encoders.encoder import in_chunks
from seqembed.settings.lengths import LengthPolicy


@functools.cache
def alone(
    architecture: Architecture, sequence: str, policy: LengthPolicy, wanted: Outputs
) -> tuple[bytes, bytes]:
    """The bytes of a sequence's row, and of its token rows, in a batch with the dummy alone."""
    rows, tokens = embed(architecture, [sequence], 1 << 20, 1, policy, wanted)
    return rows[0].tobytes(), b"".join(found.tobytes() for found in tokens)


# From 32,768 numbers on, PyTorch shares the work of one mean out among threads.
LENGTHS = st.one_of(st.integers(1, 20), st.integers(1, 300), st.integers(915, 1022))
WANTED = st.builds(
    outputs, pooling=st.sampled_from(["mean", "cls", "max"]), per_residue=st.booleans()
)


def assert_own(
    architecture: Architecture,
    lengths: Sequence[int],
    budget: int,
    threads: int,
    policy: LengthPolicy,
    wanted: Outputs,
) -> None:
    """Each row among others is, to the bit, that of its sequence alone."""
    sequences = [POOL[n] for n in lengths]
    rows, tokens = embed(architecture, sequences, budget, threads, policy, wanted)
    assert len({row.tobytes() for row in rows}) == len(sequences)
    for number, sequence in enumerate(sequences):
        found = rows[number].tobytes(), tokens[number].tobytes() if wanted.per_residue else b""
        assert found == alone(architecture, sequence, policy, wanted), len(sequence)


@pytest.mark.parametrize("architecture", SMALL, ids=name_of)
@settings(max_examples=8)
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=12, unique=True),
    budget=st.sampled_from([1, 140, 256, 900, 2048, 8192]),
    threads=st.sampled_from([1, 2]),
    policy=st.sampled_from([TRUNCATE, WINDOW]),
    wanted=WANTED,
)
@example(lengths=range(1, 140, 5), budget=8192, threads=2, policy=TRUNCATE, wanted=outputs())
def test_a_row_is_a_function_of_its_sequence_to_the_bit(
    architecture, lengths, budget, threads, policy, wanted
):
    assert_own(architecture, lengths, budget, threads, policy, wanted)


@pytest.mark.parametrize("architecture", TRUE_WIDTHS, ids=name_of)
@settings(max_examples=2)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=2, max_size=5, unique=True),
    budget=st.sampled_from([140, 900, 2048]),
    threads=st.sampled_from([1, 2]),
    policy=st.sampled_from([TRUNCATE, WINDOW]),
)
def test_a_row_is_its_own_at_true_widths(architecture, lengths, budget, threads, policy):
    assert_own(architecture, lengths, budget, threads, policy, outputs(per_residue=True))


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("architecture", SMALL, ids=name_of)
def test_batches_filled_to_blocks_as_for_a_gpu_have_the_same_rows(architecture, pooling):
    sequences = [POOL[n] for n in (300, 130, 77, 40, 3, 2)]
    wanted, found = outputs_of(architecture, outputs(pooling, per_residue=True)), []
    for filling in (Filling(), Filling(block=512)):
        model, parts = model_of(architecture), pack_for(architecture, sequences, 300, WINDOW)
        batches = [part.select(range(len(part.windows)), filling) for part in parts]
        found.append([*runner_of(model, len(sequences), wanted).run(batches)])
    for one, other in zip(*found, strict=True):
        assert one.tokens == other.tokens and one.rows.tobytes() == other.rows.tobytes()
        for (row, own), (same, theirs) in zip(one.residues, other.residues, strict=True):
            assert row == same and own.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("architecture", TRUE_WIDTHS, ids=name_of)
def test_threads_that_share_a_batch_give_the_bits_of_one(architecture):
    sequences = make_sequences([600, 350, 41])
    one, *several = (embed(architecture, sequences, 1, n)[0].tobytes() for n in (1, 2, 7))
    assert several == [one, one]


@pytest.mark.parametrize(("ffn_width", "most"), [(48, 1024), (5120, 1024), (16384, 320)])
@pytest.mark.parametrize("rows", [1, 2047, 2048, 2049, 3071, 5000])
def test_a_feed_forward_part_is_given_no_few_rows_at_the_end(rows, ffn_width, most):
    sizes = []
    x = torch.arange(rows).unsqueeze(1)
    assert torch.equal(in_chunks(lambda part: sizes.append(len(part)) or part, x, ffn_width), x)
    assert min(sizes) >= min(rows, most) and max(sizes) < 2 * most
    # glibc keeps no larger block for a thread.
    assert max(sizes) * ffn_width * 4 <= 64 << 20
