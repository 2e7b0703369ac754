"""The race of our worker with its peers, on tiny models: all compute the same rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from worker_runs import SCRIPTS, make_sequences

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FIELDS = {
    "tiny_protein": [
        "transformers, sorted",
        "transformers, packed",
        "fair-esm",
        "gemm",
        "import torch",
    ],
    "tiny_dna": ["seqembed, 2 shards", "padded PyTorch"],
}


def run(script: str, *words: object) -> str:
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *map(str, words)]
    variables = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=variables)
    return ended.stdout


@pytest.fixture(scope="module", params=FIELDS)
def race(request, tmp_path_factory) -> tuple[Path, str]:
    """The file that a race writes, and what it prints."""
    path, shape = tmp_path_factory.mktemp("race") / "race.json", request.param
    words = ["--shape", shape, "--generate", 10, "--rounds", 1, "--threads", 2, "--json", path]
    return path, run("speed", *words, "--only", *FIELDS[shape])


def test_all_compute_the_same_rows_of_as_many_tokens(race):
    path, printed = race
    result = json.loads(path.read_text())
    field = FIELDS[result["shape"]]
    runs = {run["contestant"]: run for run in result["runs"]}
    assert list(runs) == ["seqembed", *field]
    peak = runs.pop("gemm", None)
    assert ("gemm" in field) == (peak is not None and peak["flops_per_second"] > 0)
    bare = runs.pop("import torch", None)
    assert bare is None or min(bare["start"], runs["seqembed"]["start"]) > 0
    assert ("start to first batch" in printed) == (bare is not None)
    for name, figures in runs.items():
        assert figures["tokens"] == result["tokens"], name
        assert figures["difference"] < 1e-3, name
        assert figures["seconds"] > 0 and figures["peak_mb"] > 50, name
    assert [row["contestant"] for row in result["summary"]] == list(runs)
    assert all(name in printed for name in runs)


def test_a_race_is_drawn(race, tmp_path):
    pytest.importorskip("matplotlib", reason="only the bench extra has matplotlib")
    run("plot", race[0], "-o", tmp_path / "race.png")
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")


def test_the_hosts_share_of_a_batch_is_measured(tmp_path):
    sequences = make_sequences([60, 70, 1200, *range(20, 60)])
    fasta = tmp_path / "some.fasta"
    fasta.write_text("".join(f">s{n}\n{sequence}\n" for n, sequence in enumerate(sequences)))
    figures = json.loads(run("host", fasta, "--budget", 1024, "--width", 8))
    assert figures["batches"] >= 3
    assert all(value > 0 for value in figures.values())
