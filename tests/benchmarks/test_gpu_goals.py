"""The table of goals, from figures that are made up."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

CARD = "NVIDIA H200"
# Of the floors; the worker's start is in memory, or on the disk.
SECONDS = {"import torch and CUDA's start": 4.0, "files still in the cache": 0}
SECONDS |= {"reading the weights": 2.0, "reading the weights from disk": 6.0}


def of_shape(shape: str, precision: str = "fp16") -> list[dict[str, Any]]:
    """Figures that meet every goal, as the programs find them."""
    own = {"shape": shape, "precision": precision}
    encoder = {"tokens_per_second": 4e6, "of_peak": 0.8, "own_rows": 8192}
    worker = {"steady_tokens_per_second": 3.9e6, "of_peak": 0.7, "seconds_beside_steady": 9.0}
    points = [("cold", 30.0), ("warm", 9.0), ("from disk", 9.0)]
    return [
        {"kind": "encoder", "rows": 4096} | own | encoder | {"of_peak": 0.1},
        {"kind": "encoder", "rows": 8192} | own | encoder,
        {"kind": "floors", "floors_over_encoder": 0.95} | own,
        {"kind": "compositions", "compared": 400, "equal": 400} | own,
        {"kind": "loading", "peak_mb": 13.0, "largest_file_mb": 10.0} | own,
        {"kind": "start floors", "shape": shape} | SECONDS,
        *(
            {"kind": "worker", "start": start, "points": {"first batch is done": first}}
            | own
            | (worker if start == "warm" else {})
            for start, first in points
        ),
    ]


SHAPES = ("t33_650M", "t12_35M", "t6_8M", "dnabert_s", "t36_3B", "prot_t5")
ALL = [finding for shape in SHAPES for finding in of_shape(shape)]
ALL += of_shape("t33_650M", "fp32")[:2]
RACE = {"kind": "race", "shape": "t33_650M", "precision": "fp16"}
RACE_RUNS = {
    "seqembed": ([], 1.0),
    "packed": (["--order", "packed"], 1.1),
    "padded": (["--order", "sorted"], 1.5),
    "broken": ([], None),
}
ALL += [
    RACE | {"contestant": name, "options": options, "ours_is": ours_is}
    for name, (options, ours_is) in RACE_RUNS.items()
]


@pytest.fixture
def table(load, tmp_path, monkeypatch, capsys):
    """Returns the table's rows of findings, by model, precision and figure: found, and state."""

    def render(findings: list[dict[str, Any]], card: str = CARD) -> dict[str, tuple[str, str]]:
        facts = {"date": "2026-01-01", "device": "cuda", "device_name": card}
        content = facts | {"steps": [{"found": findings}]}
        (tmp_path / "part.json").write_text(json.dumps(content))
        monkeypatch.setattr(sys, "argv", ["gpu_goals.py", "--results", str(tmp_path)])
        load("gpu_goals").main()
        rows = [line[2:-2].split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
        assert all(row[0] == (card if findings else "") for row in rows)
        return {" ".join(row[1:4]): (row[5], row[6]) for row in rows}

    return render


def test_every_goal_is_met_by_figures_that_reach_it(table):
    found = table(ALL)
    assert len(found) == 19 and {state for _, state in found.values()} == {"met"}
    assert found["t33_650M fp16 floors / encoder"] == ("0.950", "met")
    assert found["t6_8M fp16 worker, tokens/s"] == ("3,900,000", "met")
    assert found["t33_650M fp16 worker / encoder"] == ("0.975", "met")
    assert found["t36_3B fp16 memory to load / largest file"] == ("1.300", "met")
    assert found["t33_650M fp16 first batch / least"] == ("1.500", "met")
    assert found["t36_3B fp16 first batch / reading, from disk"] == ("1.500", "met")
    assert found["t33_650M fp16 worker / fastest peer"] == ("1.100", "met")
    assert found["t33_650M fp16 worker / fastest padded"] == ("1.500", "met")


def test_without_figures_no_goal_is_measured(table):
    found = table([])
    assert len(found) == 19 and {*found.values()} == {("", "not measured")}


@pytest.mark.parametrize(
    ("kind", "change", "missed"),
    [
        ("floors", {"floors_over_encoder": 0.92}, ["t33_650M fp16 floors / encoder"]),
        (
            "compositions",
            {"equal": 399},
            [f"{shape} fp16 equal bits" for shape in ("t33_650M", "dnabert_s", "prot_t5")],
        ),
        ("loading", {"peak_mb": 13.1}, ["t36_3B fp16 memory to load / largest file"]),
        ("worker", {"of_peak": 0.49}, ["dnabert_s fp16 worker / peak"]),
        ("worker", {"seconds_beside_steady": 10.1}, ["t33_650M fp16 seconds beside the batches"]),
    ],
)
def test_a_figure_beyond_its_bound_misses_its_goal(kind, change, missed, table):
    found = table([f | change if f["kind"] == kind else f for f in ALL])
    assert [name for name, (_, state) in found.items() if state == "not met"] == missed


def test_each_model_has_the_bounds_of_its_own(table):
    slower = [f | {"of_peak": 0.56, "steady_tokens_per_second": 1.8e6} for f in ALL]
    found = table(slower)
    states = {name: state for name, (_, state) in found.items() if "/ peak" in name}
    assert [name.removesuffix(" / peak") for name, state in states.items() if state == "met"] == [
        "dnabert_s fp16 encoder",
        "dnabert_s fp16 worker",
        "prot_t5 fp16 encoder",
    ]
    assert found["t12_35M fp16 worker, tokens/s"] == ("1,800,000", "met")
    assert found["t6_8M fp16 worker, tokens/s"] == ("1,800,000", "not met")


@pytest.mark.parametrize(("card", "state"), [(CARD, "not met"), ("NVIDIA H100 80GB", "met")])
def test_an_h100_has_a_bound_of_its_own(card, state, table):
    found = table([f | {"of_peak": 0.67} for f in ALL], card)
    assert found["t33_650M fp16 encoder / peak"] == ("0.670", state)
    assert found["t36_3B fp16 encoder / peak"] == ("0.670", "not met")


def test_a_worker_is_compared_with_the_encoder_s_graphs(table):
    graphs = {"kind": "graphs", "shape": "t33_650M", "precision": "fp16"}
    found = table([*ALL, graphs | {"tokens_per_second": 5e6}])
    assert found["t33_650M fp16 worker / encoder"] == ("0.780", "not met")


def test_weights_that_stayed_in_memory_were_not_read_from_the_disk(table):
    kept = [f | ({"files still in the cache": 2} if "floors" in f["kind"] else {}) for f in ALL]
    found = table(kept)
    assert found["t36_3B fp16 first batch / reading, from disk"] == ("", "not measured")
    assert found["t33_650M fp16 first batch / least"] == ("1.500", "met")


def test_a_part_that_was_cut_before_its_worker_leaves_its_goals_open(table):
    found = table([f for f in ALL if (f["kind"], f["shape"]) != ("worker", "t36_3B")])
    states = {name: state for name, (_, state) in found.items() if state != "met"}
    assert states == {"t36_3B fp16 first batch / reading, from disk": "not measured"}


def test_a_log_without_a_first_batch_leaves_its_goals_open(table):
    silent = {"points": {"first batch is done": None}}
    found = table([f | (silent if f["kind"] == "worker" else {}) for f in ALL])
    assert found["t33_650M fp16 first batch / least"] == ("", "not measured")
    assert found["t36_3B fp16 first batch / reading, from disk"] == ("", "not measured")


def test_only_the_model_s_own_encoder_counts(table):
    found = table([f for f in ALL if (f["kind"], f["shape"]) != ("encoder", "dnabert_s")])
    assert found["dnabert_s fp16 encoder / peak"] == ("", "not measured")
    assert found["prot_t5 fp16 encoder / peak"] == ("0.800", "met")
