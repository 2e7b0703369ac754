"""The trained demonstration DNABERT-S, and the script that makes it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import demo_dnabert_s
import numpy as np
import pytest
import torch
import train_demo
from models_in_plain import assert_close, embed_layers, encode, plain_dnabert
from safetensors.torch import load_file

from seqembed.fasta.reader import read_records
from seqembed.models.encoders.dnabert_s import DnabertS
from seqembed.models.encoders.tokenization import BpeTokenizer
from seqembed.models.prepare import load_prepared, prepare_model
from seqembed.models.weights.build import build_model, read_checkpoint

ROOT = Path(__file__).parents[2]
CONTIGS = ROOT / "resources/example/contigs.fasta"
FOLDER = ROOT / "resources/models/dnabert_s_demo"
FILES = {"config.json", "tokenizer.json", "model.safetensors"}
# Contigs of the stretches that were held out in training.
HELD_OUT = {"lambda_44001_47000", "ecoli536_4700001_4704000"}
SEEDS = range(2)


@pytest.fixture(scope="module")
def contigs() -> dict[str, bytes]:
    return {record.sequence_id: record.residues for record in read_records(CONTIGS)}


@pytest.fixture(scope="module")
def model() -> demo_dnabert_s.DemoDnabertS:
    return demo_dnabert_s.DemoDnabertS.load(FOLDER)


def test_the_folder_is_small_and_says_what_it_is_for():
    assert {path.name for path in FOLDER.iterdir()} == FILES | {"README.md"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 4_000_000
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert card.startswith("This model is for DEMONSTRATION only")


def test_the_workflow_prepares_and_loads_it(tmp_path):
    prepare_model("demo", str(FOLDER), tmp_path / "demo.json", logging.getLogger("tests"))
    encoder = load_prepared(tmp_path / "demo.json", 3)
    assert isinstance(encoder, DnabertS)
    assert encoder.architecture == demo_dnabert_s.ARCHITECTURE


def test_its_rows_are_those_of_the_plain_formulas(contigs):
    some = [residues for residues in contigs.values() if len(residues) <= 2500]
    tokens = encode(some, BpeTokenizer(FOLDER / "tokenizer.json"))
    state = {k.removeprefix("bert."): v for k, v in load_file(FOLDER / "model.safetensors").items()}
    heads = demo_dnabert_s.ARCHITECTURE.heads
    theirs = [plain_dnabert(state, heads, t) for t in tokens]
    ours = embed_layers(build_model(read_checkpoint(FOLDER), 3), tokens)
    for number, rows in enumerate(ours, 1):
        assert_close(rows, [layers[number] for layers in theirs])


def test_it_was_trained_on_the_tokens_that_the_workflow_makes(model, contigs):
    tokenizer = BpeTokenizer(FOLDER / "tokenizer.json")
    assert tokenizer.letters == b"ACGT"
    for residues in contigs.values():
        assert np.array_equal(model.encode(residues), tokenizer.encode(residues))


def test_its_loss_on_held_out_contigs_is_what_its_card_says(model, contigs):
    held_out = [contigs[name] for name in sorted(HELD_OUT)]
    loss = np.mean([train_demo.evaluate(model, held_out, seed) for seed in SEEDS])
    assert loss == pytest.approx(3.4861, abs=1e-3)
    # The best guess from the contigs' own frequencies: it knows more than how often each token is.
    assert loss < train_demo.entropy(model, held_out) - 0.2


def test_what_is_saved_is_what_was_trained(tmp_path, contigs):
    torch.manual_seed(1)
    trained = demo_dnabert_s.DemoDnabertS.start(contigs.values())
    trained.save(tmp_path)
    loaded = demo_dnabert_s.DemoDnabertS.load(tmp_path)
    assert loaded.state_dict().keys() == trained.state_dict().keys()
    for name, tensor in trained.state_dict().items():
        assert torch.allclose(loaded.state_dict()[name], tensor, rtol=1e-6), name


def test_what_is_held_out_is_in_no_strand_trained_on(contigs):
    genome = contigs["lambda_1_6000"]
    trained, held_out = demo_dnabert_s.hold_out({b"": genome})
    border = 5400
    assert b"".join(held_out.values()) == genome[border:]
    forward = genome[:border]
    backward = forward.translate(bytes.maketrans(b"ACGT", b"TGCA"))[::-1]
    assert b"".join(trained.values()) == forward + backward


def test_the_contigs_are_what_their_names_say(contigs):
    assert len(contigs) == 13 and len(set(contigs.values())) == 12
    for name, residues in contigs.items():
        start, stop = map(int, name.removesuffix("_copy").split("_")[1:])
        assert len(residues) == stop - start + 1 and set(residues) == set(b"ACGT")


def test_the_script_makes_a_model(tmp_path):
    script = ROOT / "resources/models/train_demo.py"
    words = ["--family", "dnabert_s", "--output", tmp_path, "--steps", "2", "--batch-tokens", "256"]
    printed = subprocess.run(
        [sys.executable, script, *words, CONTIGS],
        env={"PYTHONPATH": str(ROOT / "workflow/scripts")},
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    assert json.loads(printed)["held_out"]["sequences"] > 0
    assert {path.name for path in tmp_path.iterdir()} == FILES
    read_checkpoint(tmp_path)
