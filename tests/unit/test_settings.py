"""A worker's settings: read from a plain dict, and refused where they make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from worker_runs import EMBEDDING

from seqembed.errors import ConfigError
from seqembed.settings.request import Request
from seqembed.settings.worker import WorkerSettings, read_settings

GIVEN = {
    "model": "models/m.json",
    "embedding": EMBEDDING,
    "device": "cpu",
    "token_budget": "auto",
    "threads": 2,
    "log_path": "worker.log",
    "checkpoint_seq_threshold": 10,
}


def test_a_plain_dict_becomes_settings():
    assert read_settings(GIVEN) == WorkerSettings(
        model=Path("models/m.json"),
        request=Request(**EMBEDDING),
        device="cpu",
        token_budget="auto",
        threads=2,
        log_path=Path("worker.log"),
    )
    assert read_settings(GIVEN | {"token_budget": 1}).token_budget == 1


@pytest.mark.parametrize("name", [name for name in GIVEN if name != "checkpoint_seq_threshold"])
def test_a_missing_setting_is_named(name):
    given = {key: value for key, value in GIVEN.items() if key != name}
    with pytest.raises(ConfigError, match=f"'{name}'"):
        read_settings(given)


@pytest.mark.parametrize("name", sorted(EMBEDDING))
def test_embedding_lacks_nothing_and_has_nothing_more(name):
    embedding = dict(GIVEN["embedding"])
    with pytest.raises(ConfigError, match="'pool'"):
        read_settings(GIVEN | {"embedding": embedding | {"pool": "mean"}})
    del embedding[name]
    with pytest.raises(ConfigError, match=f"'{name}'"):
        read_settings(GIVEN | {"embedding": embedding})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "gpu"),
        ("device", None),
        ("token_budget", 0),
        ("token_budget", -5),
        ("token_budget", 1.5),
        ("token_budget", True),
        ("token_budget", "many"),
        ("threads", 0),
        ("threads", "2"),
        ("threads", True),
    ],
)
def test_what_cannot_be_is_refused(name, value):
    with pytest.raises(ConfigError, match=rf"^{name} must be .*not {value!r}$"):
        read_settings(GIVEN | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer", "first"),
        ("layer", -1),
        ("layer", True),
        ("pooling", "median"),
        ("per_residue", "yes"),
        ("per_residue", None),
        ("precision", "fp64"),
        ("precision", None),
        ("storage", "bfloat16"),
        ("long_sequences", "wrap"),
        ("max_length", 0),
        ("max_length", "1022"),
        ("max_length", True),
        ("max_length", 10.0),
    ],
)
def test_what_cannot_be_embedded_is_refused(name, value):
    with pytest.raises(ConfigError, match=rf"^{name} must be .*not {value!r}$"):
        read_settings(GIVEN | {"embedding": GIVEN["embedding"] | {name: value}})
