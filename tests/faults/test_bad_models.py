"""Models that would give wrong rows, or none: each is refused in one line, before it is used."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from bad_models import BAD_MODELS

from seqembed.errors import ModelError
from seqembed.models.prepare import prepare_model
from seqembed.models.source import list_model_files

LOGGER = logging.getLogger("seqembed.tests")
OUTPUT = Path("resources/models/mine.json")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model(name, tmp_path, monkeypatch):
    case = BAD_MODELS[name]
    monkeypatch.chdir(tmp_path)
    source = case.make()
    with pytest.raises(ModelError) as caught:
        prepare_model("mine", source, OUTPUT, LOGGER)
    message = str(caught.value)
    assert message.startswith(f"{case.place}: ")
    assert case.phrase in message and case.advice in message.partition(case.phrase)[2]
    assert "\n" not in message and "weights_only" not in message and len(message) < 600
    assert not OUTPUT.parent.exists()


@pytest.mark.parametrize(
    "name", [name for name in BAD_MODELS if "adapter" in BAD_MODELS[name].place]
)
def test_snakemake_sees_an_adapter_come_and_go(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = BAD_MODELS[name]
    assert Path(case.place) in list_model_files(Path(case.make()))


def test_there_are_enough():
    assert len(BAD_MODELS) >= 75
