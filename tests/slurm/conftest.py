"""A cluster, and a project that is ready to be embedded on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, install
from driver import MARK, Place, find_processes, wait_until
from projects import Project, make_project

SHORT = 2_000  # proteins, some twenty seconds on two cores
# On one core. Slurm's shortest time limit is one minute, enforced within half a minute more: no
# first job has the time for it, even where it runs faster than this machine did before.
LONG_SECONDS = 120


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """Installed where needed, started, and stopped at the end."""
    install()
    # A socket's path has room for 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture
def cluster(slurm: Cluster) -> Iterator[Cluster]:
    """No job of an earlier test is left on it."""
    yield slurm
    slurm.cancel_all()


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Project]:
    """Embedded on this machine, without Slurm."""
    short = make_project(tmp_path_factory.mktemp("short"), SHORT)
    count = round(LONG_SECONDS * short.sequences_per_second)
    return {"short": short, "long": make_project(tmp_path_factory.mktemp("long"), count)}


@pytest.fixture
def place(projects, cluster, tmp_path, request) -> Place:
    """A copy of the project that the test names, its index made, nothing of it embedded."""
    name = getattr(request, "param", "short")
    return projects[name].copy_to(tmp_path / "run", cluster.environment)


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: not find_processes(MARK), "every process of the tests has ended", 30)
