"""A worker, and its supervisor, import no more than they need: each start waits for it."""

from __future__ import annotations

import pytest
from worker_imports import EXAMPLE, embed_example, find_foreign, find_needless, modules_after


@pytest.mark.parametrize("dataset", EXAMPLE)
def test_a_worker_imports_what_it_needs_and_its_supervisor_no_package(dataset, tmp_path):
    supervisor, worker = embed_example(tmp_path, dataset, "cpu")
    assert find_foreign(supervisor.modules, {"seqembed"}, modules_after("pass")) == []
    assert find_needless(worker) == []
    assert worker.enabled and worker.frozen > 0 == supervisor.frozen
    assert worker.advised_first and not supervisor.advised_first
