"""A copy of the checkout, folders to run it in, and a look at what runs leave behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from driver import MARK, MODEL, Place, copy_checkout, find_processes, wait_until

Here = Callable[[Path], Place]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For runs in other folders only: no test may change it."""
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def prepared_model(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What prepare_model makes of the bundled model, which each run would spend seconds on."""
    place = Place(checkout, tmp_path_factory.mktemp("prepared"))
    place.configure(models={"esm2_random": str(checkout / MODEL)})
    place.run("resources/models/esm2_random.json")
    return place.folder / "resources/models/esm2_random.json"


@pytest.fixture(scope="session")
def open_place(checkout: Path, prepared_model: Path) -> Here:
    """Make a folder a place to run in, its model prepared under the name esm2_random."""

    def opened(folder: Path) -> Place:
        target = folder / "resources/models/esm2_random.json"
        target.parent.mkdir(parents=True)
        shutil.copy(prepared_model, target)
        return Place(checkout, folder)

    return opened


@pytest.fixture(scope="session")
def model(checkout: Path) -> str:
    return str(checkout / MODEL)


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: not find_processes(MARK), "every process of the tests has ended", 10)
