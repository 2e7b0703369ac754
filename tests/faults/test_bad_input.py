"""Malformed FASTA and configurations: each is refused with exactly what its table says."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_configuration import BAD_CONFIGURATIONS, BAD_FILES
from bad_fasta import BAD_FASTA, BadFasta

from seqembed.errors import ConfigError
from seqembed.settings.schema import complete, get_datasets
from seqembed.settings.yaml_file import check_yaml

TESTS = Path(__file__).parents[1]
SCRIPTS = TESTS.parent / "workflow/scripts"
PROTEIN_MODEL = TESTS / "golden/model.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """The descriptions of a model of each molecule."""
    dna = json.loads((TESTS / "golden/tokens/model.json").read_text())
    dna["tokenizer_file"] = str(TESTS / "data/dnabert_s/tokenizer.json")
    path = tmp_path_factory.mktemp("models") / "dna.json"
    path.write_text(json.dumps(dna))
    return {"protein": PROTEIN_MODEL, "DNA": path}


@pytest.fixture
def index_program(monkeypatch) -> Iterator[Any]:
    """The entry `index`; SIGTERM is handled as before it afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module: Any = __import__("index")
    yield module
    signal.signal(signal.SIGTERM, before)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def _arguments(case: BadFasta, model: Path) -> list[str]:
    options = {"--ids": case.ids, "--invalid-residues": case.asked, "--model": str(model)}
    options |= {"--gaps": case.gaps, "--suspicious": case.suspicious}
    options |= {"--output": "out/index.parquet", "--residues": "out/residues.bin"}
    options |= {"--log": "index.log"}
    return ["index.py", "--fasta", *case.patterns, *(w for item in options.items() for w in item)]


@pytest.mark.parametrize("name", BAD_FASTA)
def test_malformed_fasta(name, tmp_path, monkeypatch, capsys, models, index_program):
    case = BAD_FASTA[name]
    _write(tmp_path, dict(case.files))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", _arguments(case, models[case.molecule]))
    assert index_program.main() == 1
    assert capsys.readouterr().err == f"index: {case.error}\n"
    assert (tmp_path / "index.log").read_text().partition(" ERROR ")[2] == f"{case.error}\n"
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == []


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
    assert len(BAD_FASTA) >= 60
    assert len(BAD_FILES) + len(BAD_CONFIGURATIONS) >= 50
    # Two of one kind would show the same twice.
    inputs = {(tuple(case.files.items()), case.patterns) for case in BAD_FASTA.values()}
    assert len(inputs) == len(BAD_FASTA)
