"""Wrong configurations: each is refused, and says where and why."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_configuration import BAD_CONFIGURATIONS, BAD_FILES
from snapshot import check_snapshot

from seqembed.errors import ConfigError
from seqembed.settings.schema import complete, get_datasets
from seqembed.settings.yaml_file import check_yaml

CONFIG = Path("config.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def refuse(name: str) -> str:
    """The message for a case of the two tables."""
    try:
        if name in BAD_FILES:
            CONFIG.write_bytes(BAD_FILES[name])
            check_yaml(CONFIG)
        else:
            get_datasets(complete(BAD_CONFIGURATIONS[name]))
    except ConfigError as error:
        return str(error)
    pytest.fail(f"{name}: not refused")


def test_a_wrong_configuration_is_refused():
    check_snapshot("configuration", {name: refuse(name) for name in BAD_FILES | BAD_CONFIGURATIONS})


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"datasets:\n",
        b"embedding: &e {precision: fp16}\ndatasets: {a: {embedding: *e}, b: {embedding: *e}}",
        b"a: &a {b: 1}\nc: {<<: *a, b: 2}\nd: {<<: *a, <<: *a}\ne: {b: 3}\n",
        b"'1': a\n1: b\n",
    ],
)
def test_files_with_nothing_wrong_pass(content):
    CONFIG.write_bytes(content)
    check_yaml(CONFIG)


@pytest.mark.parametrize(
    "make", [CONFIG.mkdir, lambda: os.mkfifo(CONFIG), lambda: CONFIG.symlink_to("missing")]
)
def test_a_configuration_that_is_not_a_file_is_refused(make: Callable[[], None]):
    make()
    with pytest.raises(ConfigError, match=r"^config\.yaml is not a file"):
        check_yaml(CONFIG)
