"""A report made by a real run, opened in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import chromium
import hostile
import pytest
from chromium import Browser
from driver import copy_checkout


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run on hostile records."""
    checkout = copy_checkout(tmp_path_factory.mktemp("checkout"))
    return hostile.make_page(checkout, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def running(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium.install()
    downloads = tmp_path_factory.mktemp("downloads")
    driver = chromium.start(downloads)
    try:
        yield Browser(driver, page, downloads)
    finally:
        driver.quit()


@pytest.fixture
def browser(running: Browser) -> Iterator[Browser]:
    """The page, opened anew. Whatever a test does, the console stays empty and nothing is sent."""
    running.messages(), running.requests()
    running.open()
    yield running
    running.map_picture()
    assert running.messages() == []
    # A figure that is saved is a blob: it never leaves the page.
    assert {url for url in running.requests() if not url.startswith("blob:")} == {running.url}
    assert running.evaluate("return window.hacked") is None
