"""A fixed small sample of the fault harness: each kind of fault once. `make faults` runs more."""

from __future__ import annotations

import shutil

import crash_workflow
import pytest
from harness import World, prepare, run_case, stage_kinds
from settle import GOOD

# Each seed's cases are quick, and reach what its kind is about.
SEED = 1
STAGE_CASES = range(13)
WORKFLOW_CASES = (0, 3)

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None, reason="no C compiler for the library that disturbs calls"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return prepare(tmp_path_factory.mktemp("faults"), workflow=True)


@pytest.mark.parametrize("case", STAGE_CASES)
def test_a_disturbed_stage_ends_in_the_undisturbed_bytes(world, case):
    if case >= len(stage_kinds()):
        pytest.skip("a small disk cannot be mounted here")
    result = run_case(world, SEED, str(case))
    assert result.outcome in GOOD, str(result)


@pytest.mark.parametrize("case", WORKFLOW_CASES)
def test_a_disturbed_workflow_ends_in_the_undisturbed_bytes(world, case):
    assert len(crash_workflow.KINDS) > case
    result = run_case(world, SEED, f"w{case}")
    assert result.outcome in GOOD, str(result)
