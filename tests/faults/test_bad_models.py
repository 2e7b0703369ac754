"""Models that would give wrong rows, or none: each is refused in one line, before it is used."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from bad_models import BAD_MODELS
from snapshot import check_snapshot

from seqembed.errors import ModelError
from seqembed.models.prepare import prepare_model
from seqembed.models.source import list_model_files

LOGGER = logging.getLogger("seqembed.tests")
OUTPUT = Path("resources/models/mine.json")


def refuse(name: str, folder: Path) -> str:
    """Make a bad model in `folder`, and return the message with which it is refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        source = BAD_MODELS[name][0]()
        try:
            prepare_model("mine", source, OUTPUT, LOGGER)
        except ModelError as error:
            assert not OUTPUT.parent.exists() and not Path("executed").exists(), name
            return str(error)
    return "not refused"


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: refuse(name, tmp_path_factory.mktemp("bad")) for name in BAD_MODELS}


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model(name: str, messages: dict[str, str]) -> None:
    _, place, phrase = BAD_MODELS[name]
    message = messages[name]
    assert message.startswith(f"{place}: ") and phrase in message
    assert "\n" not in message and "weights_only" not in message and len(message) < 600


def test_the_whole_messages(messages: dict[str, str]) -> None:
    check_snapshot("models", messages)


@pytest.mark.parametrize("name", [name for name in BAD_MODELS if "adapter" in BAD_MODELS[name][1]])
def test_snakemake_sees_an_adapter_come_and_go(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, place, _ = BAD_MODELS[name]
    assert Path(place) in list_model_files(Path(make()))
