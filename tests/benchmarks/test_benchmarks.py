"""The race of our worker with its peers, on tiny models: all compute the same rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models_in_plain import assert_close, embed, encode
from models_in_plain import load as load_model
from transformers import EsmcConfig, EsmcModel, T5Config, T5EncoderModel
from worker_runs import SCRIPTS, make_sequences

from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.families import FAMILIES
from seqembed.models.vocabularies import ESMC

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FIELDS = {
    "tiny_protein": ["transformers, packed", "fair-esm", "gemm", "import torch"],
    "tiny_dna": ["seqembed, 2 shards", "padded PyTorch"],
}
# What else is said of a race.
WORDS = {
    "tiny_protein": ["--batches", 2, "--budgets", 512, "--peak-rows", 1024],
    "tiny_dna": ["--threads", 2],
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
    words = ["--shape", shape, "--generate", 10, "--rounds", 1, "--threads", 1, "--json", path]
    return path, run("speed", *words, *WORDS.get(shape, []), "--only", *FIELDS[shape])


def test_all_compute_the_same_rows_of_as_many_tokens(race):
    path, printed = race
    result = json.loads(path.read_text())
    field = FIELDS[result["shape"]]
    runs = {run["contestant"]: run for run in result["runs"]}
    assert list(runs) == ["seqembed", *field]
    peak = runs.pop("gemm", None)
    assert ("gemm" in field) == (peak is not None and peak["flops_per_second"] > 0)
    assert all("1024 rows" in name for name in (peak or {}).get("products", ()))
    bare = runs.pop("import torch", None)
    assert bare is None or min(bare["start"], runs["seqembed"]["start"]) > 0
    assert ("start to first batch" in printed) == (bare is not None)
    for name, figures in runs.items():
        assert figures["tokens"] == result["tokens"], name
        assert figures["difference"] < 1e-3, name
        assert figures["seconds"] > 0 and figures["peak_mb"] > 50, name
    assert [row["contestant"] for row in result["summary"]] == list(runs)
    assert all(name in printed for name in runs)


def test_transformers_computes_our_rows_of_an_esm_c_in_sorted_batches(
    load, tmp_path, monkeypatch, capsys
):
    def call(program: str, **options: object) -> None:
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", [program, *words])
        load(program).main()

    sequences, fasta = make_sequences([7, 60, 33]), tmp_path / "some.fasta"
    fasta.write_text("".join(f">s{n}\n{sequence}\n" for n, sequence in enumerate(sequences)))
    call("make_model", shape="tiny_esmc", output=tmp_path)
    where = {"model": tmp_path / "hf", "fasta": fasta, "rows": tmp_path / "rows.npy"}
    how = {"threads": 1, "device": "cpu", "precision": "fp32", "budget": 100}
    call("peer_transformers", order="sorted", **where, **how)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["tokens"], figures["places"]) == (106, 62 + 2 * 35)
    tokens = encode([sequence.encode() for sequence in sequences], ResidueTokenizer(ESMC))
    ours = [rows[1:-1].mean(0) for rows in embed(load_model(tmp_path / "hf"), tokens)]
    assert_close([*torch.from_numpy(np.load(tmp_path / "rows.npy"))], ours)


def test_the_work_of_an_esm_c_is_that_of_its_products_and_attention(load):
    shape = load("shapes").SHAPES["esmc_300m"]
    # In a layer: q, k and v; attention's output; gate and up; down.
    layer = 960 * 2880 + 960 * 960 + 960 * 5120 + 2560 * 960
    # Queries with keys, and weights with values: each n x n x 960 multiplications and additions.
    attention = 30 * 2 * (2 * (100 * 100 + 3 * 3) * 960)
    assert shape.flops([100, 3]) == 2 * 30 * layer * 103 + attention
    config = EsmcConfig(
        num_hidden_layers=30,
        hidden_size=960,
        num_attention_heads=15,
        intermediate_size=2560,
    )
    with torch.device("meta"):
        layers = EsmcModel(config).layers
    assert sum(weight.numel() for weight in layers.parameters() if weight.dim() == 2) == 30 * layer


@pytest.mark.parametrize(
    ("name", "heads", "activation"),
    [("prot_t5", 32 * 128, "relu"), ("ankh_large", 16 * 64, "gated-gelu")],
)
def test_the_work_of_a_t5_counts_all_values_of_its_heads(name, heads, activation, load):
    shape = load("shapes").SHAPES[name]
    sizes = {"d_model": shape.width, "d_kv": shape.head_dim, "d_ff": shape.ffn_width}
    sizes |= {"num_layers": shape.layers, "num_heads": shape.heads}
    with torch.device("meta"):
        model = T5EncoderModel(T5Config(**sizes, feed_forward_proj=activation))
    # But the table of biases.
    weights = [w for name, w in model.encoder.block.named_parameters() if "bias" not in name]
    products = sum(weight.numel() for weight in weights if weight.dim() == 2)
    attention = shape.layers * 2 * (2 * (100 * 100 + 3 * 3) * heads)
    assert shape.flops([100, 3]) == 2 * products * 103 + attention


def test_each_family_is_measured_as_its_authors_compute_it_and_with_peers(load):
    shapes = load("shapes")
    fields = load("contestants").PEERS, load("gpu_peers").PEERS
    for shape in shapes.SHAPES.values():
        family = FAMILIES[shape.family]
        assert (shape.precision("cuda"), shape.molecule) == (family.half, family.molecule)
        assert shape.precision("cpu") == "fp32"
        assert shape.specials == family.specials.total
        assert all(peers[shape.family] for peers in fields)


def test_a_sample_of_batches_is_as_full_as_all(load, tmp_path):
    inputs, batching = load("inputs"), load("batching")
    path = tmp_path / "input.fasta"
    options = {"every": 1, "count": 300, "batches": 3, "budget": 2048}
    count = inputs.write_input(path, "protein", None, **options)
    lengths = [len(residues) + 2 for residues in inputs.read_sequences(path)]
    assert len(lengths) == count
    found = batching.padded_batches(lengths, 2048)
    assert len(found) == 3
    places = sum(len(batch) * lengths[batch[0]] for batch in found)
    assert places <= 3 * 2048 and sum(lengths) > 0.95 * places
    assert min(lengths) < 300 < 600 < max(lengths)


def test_a_peer_takes_the_budget_at_which_it_is_fastest(load):
    fastest = load("contestants").fastest
    assert fastest({"512": 9.0, "1024": 10.5, "2048": None}) == 1024
    assert fastest({"512": None}) is None


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
