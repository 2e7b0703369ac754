"""How long a run will take: whose records count, and how shards share the devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from described_models import protein_model
from known_files import KNOWN_RECIPE
from test_speed_records import RECORD

from seqembed.look.forecast import (
    MEASURED,
    MERGE_BYTES_A_SECOND,
    RUN_SECONDS,
    Speed,
    find_speed,
    predict_seconds,
)
from seqembed.models.architectures import Esm2Architecture
from seqembed.models.prepared import PreparedModel
from seqembed.settings.recipe import Recipe
from seqembed.worker.speed_records import SpeedRecord

OWN = replace(RECORD, weights=KNOWN_RECIPE.weights, layer=KNOWN_RECIPE.layer)
SPEED = Speed(cost_a_second=10.0, start_seconds=2.0, device_name="a processor", source="")


def find(*records: SpeedRecord, name: str = "a processor", threads: int = 1) -> Speed | None:
    return find_speed(records, protein_model(), KNOWN_RECIPE, name, threads)


def test_a_run_of_the_same_settings_counts():
    found = find(OWN)
    assert found is not None
    assert (found.cost_a_second, found.start_seconds) == (20.0, 2.5)
    assert found.device_name == "a processor"


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "c" * 64},
        {"layer": 1},
        {"precision": "bf16"},
        {"per_residue": True},
        {"kernels": "1"},
        {"device": "cuda"},
        {"device_name": "another"},
        {"threads": 2},
    ],
)
def test_a_run_of_other_settings_does_not(change: dict[str, Any]):
    assert find(replace(OWN, **change)) is None


def test_pooling_and_long_sequences_change_no_speed():
    assert find(replace(OWN, pooling="max", long_sequences="full", max_length=0))


def test_the_median_of_long_runs_counts():
    runs = [replace(OWN, cost=cost, seconds=10.0) for cost in (100.0, 300.0, 200.0)]
    short = replace(OWN, cost=1.0, seconds=1.0)
    assert find(short, *runs).cost_a_second == 20.0
    assert find(short).cost_a_second == 1.0


def test_only_the_newest_runs_count():
    old = [replace(OWN, cost=1.0)] * 20
    assert find(*[OWN] * 9, *old).cost_a_second == 20.0


def on_card(model: PreparedModel, name: str, *records: SpeedRecord) -> Speed | None:
    recipe = replace(KNOWN_RECIPE, device="cuda", kernels="1", precision="fp16")
    return find_speed(records, model, recipe, name, 4)


def test_on_a_cluster_the_card_of_the_newest_run_is_named():
    changes = {"device": "cuda", "kernels": "1", "precision": "fp16", "threads": 8}
    runs = [replace(OWN, **changes, device_name=name) for name in ("L4", "A100", "L4")]
    assert on_card(protein_model(), "", *runs).device_name == "L4"
    assert on_card(protein_model(), "A100", *runs).device_name == "A100"


def test_a_measured_card_counts_if_there_is_no_record():
    sizes = Esm2Architecture(layers=33, width=1280, heads=20, ffn_width=5120)
    large = replace(protein_model(), architecture=sizes)
    for name in ("", "NVIDIA H200"):
        assert on_card(large, name).device_name == "NVIDIA H200"
    assert on_card(large, "NVIDIA L4") is None
    assert on_card(protein_model(), "") is None
    recipe: Recipe = KNOWN_RECIPE
    assert find_speed([], large, recipe, "", 1) is None, "the table is of GPUs in fp16"
    assert {card.device_name for card in MEASURED} == {"NVIDIA H200"}


@pytest.mark.parametrize(
    ("costs", "at_once", "seconds"),
    [
        ([100.0], 1, 12.0),
        ([100.0, 100.0], 1, 24.0),
        ([100.0, 100.0], 2, 12.0),
        ([100.0, 50.0, 50.0], 2, 14.0),
        ([100.0, 0.0, 0.0], 1, 12.0),
        ([0.0], 4, 0.0),
    ],
)
def test_shards_run_on_the_devices_in_turn(costs, at_once, seconds):
    assert predict_seconds(costs, SPEED, at_once, 0) == RUN_SECONDS + seconds
    size = int(MERGE_BYTES_A_SECOND)
    assert predict_seconds(costs, SPEED, at_once, size) == RUN_SECONDS + seconds + 1
