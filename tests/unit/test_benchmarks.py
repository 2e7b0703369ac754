"""The race of our worker with its peers, on tiny models: all compute the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FIELDS = {
    "tiny_protein": ["transformers, sorted", "fair-esm", "gemm", "import torch"],
    "tiny_dna": ["seqembed, 2 shards", "padded PyTorch"],
}


def run(script: str, *words: object) -> str:
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def race(shape: str, path: Path) -> tuple[dict[str, Any], str]:
    """What the program writes down, and what it prints."""
    words = ["--shape", shape, "--generate", 10, "--rounds", 1, "--threads", 2, "--json", path]
    printed = run("speed", *words, "--only", *FIELDS[shape])
    return json.loads(path.read_text()), printed


@pytest.mark.parametrize("shape", FIELDS)
def test_all_compute_the_same_rows_of_as_many_tokens(shape, tmp_path):
    result, printed = race(shape, tmp_path / "race.json")
    runs = {run["contestant"]: run for run in result["runs"]}
    assert list(runs) == ["seqembed", *FIELDS[shape]]
    peak = runs.pop("gemm", None)
    assert ("gemm" in FIELDS[shape]) == (peak is not None and peak["flops_per_second"] > 0)
    bare = runs.pop("import torch", None)
    assert bare is None or 0 < bare["start"] < runs["seqembed"]["start"]
    assert ("start to first batch" in printed) == (bare is not None)
    for name, figures in runs.items():
        assert figures["tokens"] == result["tokens"], name
        assert figures["difference"] < 1e-3, name
        assert figures["seconds"] > 0 and figures["peak_mb"] > 50, name
    assert [row["contestant"] for row in result["summary"]] == list(runs)
    assert all(name in printed for name in runs)


def test_a_race_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="only the bench extra has matplotlib")
    row = {"contestant": "seqembed", "min": 1.0, "median": 2.0, "max": 3.0}
    result = {
        "shape": "t6_8M",
        "precision": "fp32",
        "device": "cpu",
        "threads": 2,
        "machine": {"cpu": "a CPU"},
        "summary": [row, row | {"contestant": "a peer"}],
    }
    (tmp_path / "race.json").write_text(json.dumps(result))
    run("plot", tmp_path / "race.json", "-o", tmp_path / "race.png")
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")
