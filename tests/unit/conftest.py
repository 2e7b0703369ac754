"""A prepared model and small projects, shared by the tests of workers."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import worker_runs
from worker_runs import BUNDLED_MODEL, SCRIPTS, Project, make_project

from seqembed.models.prepare import prepare_model

LOGGER = logging.getLogger("seqembed.tests")


@pytest.fixture(scope="session")
def prepared_model(tmp_path_factory) -> Path:
    """The description of the bundled random ESM-2: 4 layers, 64 values a row."""
    path = tmp_path_factory.mktemp("models") / "random.json"
    prepare_model("random", str(BUNDLED_MODEL), path, LOGGER)
    return path


@pytest.fixture
def project(tmp_path, prepared_model) -> Project:
    """40 sequences of 1 to 300 residues in one shard, no worker having run yet."""
    return make_project(tmp_path, prepared_model)


@pytest.fixture(scope="session")
def context() -> Any:
    """Starts processes that have PyTorch imported already."""
    with pytest.MonkeyPatch.context() as patch:
        # Where the server of such processes finds what it imports.
        folders = [str(SCRIPTS), str(Path(worker_runs.__file__).parent)]
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))
        yield worker_runs.get_context("forkserver")
