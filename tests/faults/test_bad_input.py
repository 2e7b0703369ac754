"""Malformed configurations: each is refused with exactly what its table says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bad_configuration import BAD_CONFIGURATIONS, BAD_FILES

from seqembed.errors import ConfigError
from seqembed.settings.schema import complete, get_datasets
from seqembed.settings.yaml_file import check_yaml


@pytest.mark.parametrize("name", BAD_FILES)
def test_malformed_configuration_files(name, tmp_path, monkeypatch):
    content, error = BAD_FILES[name]
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        check_yaml(Path("config.yaml"))
    assert str(caught.value) == error


@pytest.mark.parametrize("name", BAD_CONFIGURATIONS)
def test_wrong_configurations(name):
    config, error = BAD_CONFIGURATIONS[name]
    with pytest.raises(ConfigError) as caught:
        get_datasets(complete(config))
    assert str(caught.value) == error


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
def test_files_with_nothing_wrong_pass(content, tmp_path):
    (tmp_path / "config.yaml").write_bytes(content)
    check_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_a_configuration_that_is_no_file_is_told(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("config.yaml")
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("x")}[
        kind
    ]()
    with pytest.raises(ConfigError) as caught:
        check_yaml(path)
    assert str(caught.value) == "config.yaml is no file; put a file of that name in its place."


def test_there_are_enough():
    assert len(BAD_FILES) + len(BAD_CONFIGURATIONS) >= 50
