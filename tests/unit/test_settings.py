"""A worker's settings: read from a plain dict, and refused where they make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from worker_runs import EMBEDDING

from seqembed.errors import ConfigError
from seqembed.settings.request import Request, WorkerSettings, read_settings

GIVEN = {
    "model": "models/m.json",
    "embedding": EMBEDDING,
    "device": "cpu",
    "token_budget": "auto",
    "threads": 2,
    "checkpoint_seq_threshold": 10,
    "reuse": ["old.h5"],
    "stores": ["results/other/store"],
}
OTHERS = ("checkpoint_seq_threshold", "reuse", "stores")


def test_a_plain_dict_becomes_settings():
    assert read_settings(GIVEN) == WorkerSettings(
        model=Path("models/m.json"),
        request=Request(**EMBEDDING),
        device="cpu",
        token_budget="auto",
        threads=2,
    )
    assert read_settings(GIVEN | {"token_budget": 1}).token_budget == 1


def lacking(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in names}


@pytest.mark.parametrize("name", [*lacking(GIVEN, *OTHERS), *EMBEDDING])
def test_a_missing_setting_and_an_unknown_one_are_named(name):
    with pytest.raises(ConfigError, match=f"'{name}'"):
        read_settings(lacking(GIVEN | {"embedding": lacking(EMBEDDING, name)}, name))
    with pytest.raises(ConfigError, match="'pool'"):
        read_settings(GIVEN | {"embedding": EMBEDDING | {"pool": "mean"}})


IMPOSSIBLE = {
    "device": ["gpu", None],
    "token_budget": [0, 1.5, True, "many"],
    "threads": [0, "2", None],
    "layer": ["first", -1, True],
    "pooling": ["median"],
    "per_residue": ["yes", None],
    "precision": ["fp64"],
    "storage": ["bfloat16"],
    "long_sequences": ["wrap"],
    "max_length": [0, "1022", 10.0],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in IMPOSSIBLE.items() for value in values]
)
def test_an_impossible_value_is_refused(name, value):
    changed = {name: value} if name in GIVEN else {"embedding": EMBEDDING | {name: value}}
    with pytest.raises(ConfigError, match=rf"^{name} must be .*not {value!r}$"):
        read_settings(GIVEN | changed)
