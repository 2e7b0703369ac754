"""The order in which a shard is computed, and how full it makes batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seqembed.index.processing_order import arrange
from seqembed.inference.batches import plan_batches
from seqembed.settings.lengths import LengthPolicy
from seqembed.settings.token_budget import TOKENS

POLICIES = [
    LengthPolicy(long_sequences="window", max_length=1022),
    LengthPolicy(long_sequences="window", max_length=300),
    LengthPolicy(long_sequences="truncate", max_length=1022),
    LengthPolicy(long_sequences="full", max_length=0),
]
TOKEN_COUNTS = st.lists(st.one_of(st.integers(1, 400), st.integers(1, 30_000)), max_size=80)


def descending(tokens: list[int]) -> np.ndarray:
    return np.array(sorted(tokens, reverse=True), np.int64)


def fill(tokens: np.ndarray, policy: LengthPolicy, budget: int) -> float:
    """Which share of the passes' budget is used, where tokens are in processing order."""
    passes = policy.passes(tokens, budget)
    bounds = plan_batches(policy.last_pass(tokens, budget), budget, passes > 1)
    sums = np.add.reduceat(policy.model_tokens(tokens), bounds[:-1])
    return float(sums.sum() / np.maximum(sums, passes[bounds[:-1]] * budget).sum())


@given(TOKEN_COUNTS, st.sampled_from(POLICIES))
def test_every_sequence_has_one_place(tokens, policy):
    places = arrange(descending(tokens), policy)
    assert sorted(places.tolist()) == list(range(len(tokens)))


@given(TOKEN_COUNTS.filter(bool), st.sampled_from(POLICIES))
@example([1651, 1201, 301, 301], LengthPolicy(long_sequences="window", max_length=300))
@example([8701, 8551, 301, 301, 300, 202, 170, 31], POLICIES[1])
def test_the_longest_come_first(tokens, policy):
    read = policy.model_tokens(descending(tokens))
    ordered = read[arrange(descending(tokens), policy)]
    # Of a sequence in several passes only the last one decides, which others join.
    if policy.passes(descending(tokens), TOKENS["cpu"])[0] == 1:
        assert ordered[0] == read[0]
    # What is larger than any batch comes in its order. A sequence in several passes, which takes no
    # more memory than a batch, may come before one that is larger by less than a CPU's budget: so
    # many tokens of other sequences join its last pass.
    large = ordered[ordered > TOKENS["cuda"]]
    several = policy.long_sequences == "window"
    largest_left = np.maximum.accumulate(large[::-1])[::-1]
    assert (largest_left - large < (TOKENS["cpu"] if several else 1)).all()


@pytest.mark.parametrize(("budget", "full"), [(2048, 0.99), (4096, 0.98), (16384, 0.99)])
def test_batches_of_lengths_like_those_of_proteins_are_full(budget, full):
    # Log-normal, the median 300, as UniProt's are.
    lengths = np.random.default_rng(5).lognormal(np.log(300), 0.75, 20_000)
    tokens = descending(np.clip(lengths, 20, 36_000).astype(np.int64).tolist())
    ordered = tokens[arrange(tokens, POLICIES[0])]
    assert (tokens > 1022).sum() > 500
    assert fill(ordered, POLICIES[0], budget) > full
    assert fill(tokens, POLICIES[0], budget) < 0.98
