"""Malformed FASTA: each is refused with exactly what its table says."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_fasta import BAD_FASTA, BadFasta

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
    options |= {"--output": "out/index.parquet", "--log": "index.log"}
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


def test_there_are_enough():
    assert len(BAD_FASTA) >= 60
    # Two of one kind would show the same twice.
    inputs = {(tuple(case.files.items()), case.patterns) for case in BAD_FASTA.values()}
    assert len(inputs) == len(BAD_FASTA)
