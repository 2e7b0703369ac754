"""A prepared model and small projects, shared by the tests of workers."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import worker_runs
from hypothesis import settings
from worker_runs import BUNDLED_MODEL, SCRIPTS, Project, make_project

from seqembed.models.prepare import prepare_model

LOGGER = logging.getLogger("seqembed.tests")


# A shared machine may stall for a moment: no example is slow by its own fault.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


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


@pytest.fixture
def durable(monkeypatch) -> list[int | str]:
    """What outlives a power cut, in its order: inodes that are synced, and names that are given.

    The calls are made, too.
    """
    seen: list[int | str] = []

    def watch(name: str, look: Callable[..., int | str]) -> None:
        call = getattr(os, name)

        def watched(*arguments: Any) -> None:
            call(*arguments)
            seen.append(look(*arguments))

        monkeypatch.setattr(os, name, watched)

    watch("fsync", lambda descriptor: os.fstat(descriptor).st_ino)
    for name in ("rename", "link"):
        watch(name, lambda source, target: Path(target).name)
    return seen


@pytest.fixture(scope="session")
def context() -> Any:
    """Starts processes that have PyTorch imported already."""
    with pytest.MonkeyPatch.context() as patch:
        # Where the server of such processes finds what it imports.
        folders = [str(SCRIPTS), str(Path(worker_runs.__file__).parent)]
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))
        yield worker_runs.get_context("forkserver")


@pytest.fixture
def restored_process() -> Iterator[None]:
    """Afterwards this process has its signal handlers and its environment again."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers, environment = [signal.getsignal(n) for n in numbers], os.environ.copy()
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environment)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
