import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqembed.batches import plan_batches


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
