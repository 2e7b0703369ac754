"""A fixed small sample of the fault harness: each kind of fault once. `make faults` runs more."""

from __future__ import annotations

import pytest
from harness import World, prepare, run_case
from interposed import find_compiler
from settle import GOOD, LEFT_OUT

SEED = 1
# Each kind once, of token rows, in a stage after which little is left to run.
STAGE_CASES = (65, 105, 67, 3, 56, 291, 110, 46, 73, 35, 36, 63, 25)
# What the cases above do not: rows that are reused, and other shards.
REUSE_CASES = (1, 3, 8, 9)
WORKFLOW_CASES = (3, 4)

pytestmark = [
    pytest.mark.timing,
    pytest.mark.skipif(
        find_compiler() is None, reason="no C compiler for the library that disturbs calls"
    ),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return prepare(tmp_path_factory.mktemp("faults"), plain=False, workflow=True)


@pytest.mark.parametrize("case", STAGE_CASES)
def test_a_disturbed_stage_ends_in_the_undisturbed_bytes(world, case):
    result = run_case(world, SEED, str(case))
    if result.outcome == LEFT_OUT:
        pytest.skip("only root can mount a small disk")
    assert result.outcome in GOOD, str(result)


@pytest.mark.parametrize("case", REUSE_CASES)
def test_disturbed_reuse_ends_in_the_undisturbed_bytes(world, case):
    result = run_case(world, SEED, f"r{case}")
    assert result.outcome in GOOD, str(result)


@pytest.mark.parametrize("case", WORKFLOW_CASES)
def test_a_disturbed_workflow_ends_in_the_undisturbed_bytes(world, case):
    result = run_case(world, SEED, f"w{case}")
    assert result.outcome in GOOD, str(result)
