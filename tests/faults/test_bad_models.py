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
    make, place = BAD_MODELS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        source = make()
        # Snakemake sees an adapter come and go.
        assert "adapter" not in place or Path(place) in list_model_files(Path(source))
        try:
            prepare_model("mine", source, OUTPUT, LOGGER)
        except ModelError as error:
            message = str(error)
        else:
            pytest.fail(f"{name}: not refused")
        assert not OUTPUT.parent.exists(), name
    assert message.startswith(f"{place}: ") and "\n" not in message and len(message) < 600, name
    assert "weights_only" not in message, name
    return message


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_bad_models_are_refused(tmp_path_factory):
    messages = {name: refuse(name, tmp_path_factory.mktemp("bad")) for name in BAD_MODELS}
    check_snapshot("models", messages)
