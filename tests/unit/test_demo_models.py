"""The trained demonstration models, and the script that makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import demo_esm2
import numpy as np
import pytest
import torch
import train_demo
from torch.nn.functional import cross_entropy
from transformers import EsmForMaskedLM

from seqembed.fasta.reader import read_records
from seqembed.models.weights.build import build_model, read_checkpoint

ROOT = Path(__file__).parents[2]
PROTEINS = ROOT / "resources/example/proteins.fasta"
FOLDER = ROOT / "resources/models/esm2_demo"
FILES = {"config.json", "vocab.txt", "model.safetensors"}
SEED = train_demo.SEED


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Many small operations: threads that wait for a busy processor cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sequences() -> list[bytes]:
    return list(train_demo.read_distinct([PROTEINS]).values())


@pytest.fixture(scope="module")
def model() -> demo_esm2.DemoEsm2:
    return demo_esm2.DemoEsm2.load(FOLDER)


def theirs(folder: Path) -> EsmForMaskedLM:
    """transformers' own model, which finds every weight it looks for and no other."""
    model, report = EsmForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@torch.inference_mode()
def their_loss(folder: Path, sequences: list[bytes]) -> float:
    """What train_demo.evaluate computes, by transformers."""
    model, rng, losses = theirs(folder), np.random.default_rng(SEED), []
    for residues in sequences:
        tokens, bounds = train_demo.pack([demo_esm2.DemoEsm2.encode(residues)[:1024]])
        batch = train_demo.mask(demo_esm2.DemoEsm2, tokens, bounds, rng, hidden=1.0, random=0.0)
        inputs = batch.inputs[None]
        logits = model(inputs, attention_mask=torch.ones_like(inputs)).logits[0]
        losses.append(cross_entropy(logits[batch.chosen], batch.targets, reduction="none"))
    return torch.cat(losses).mean().item()


def test_the_folder_is_small_and_says_what_it_is_for():
    assert {path.name for path in FOLDER.iterdir()} == FILES | {"README.md"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5_000_000
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert card.startswith("This model is a DEMONSTRATION")


def test_the_weights_are_trained_as_the_card_says(model, sequences):
    loss = train_demo.evaluate(model, sequences, SEED)
    unigram = train_demo.entropy(model, sequences)
    # The residues' own frequencies are the best guess without context.
    assert loss < unigram
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    (line,) = (line for line in card.splitlines() if line.startswith("| the bundled example"))
    stated = [float(cell.split()[0]) for cell in line.split("|")[3:5]]
    assert [loss, unigram] == pytest.approx(stated, abs=1e-3)


def test_transformers_computes_the_same_loss(model, sequences):
    shortest = sorted(sequences, key=len)[:30]
    ours = train_demo.evaluate(model, shortest, SEED)
    assert their_loss(FOLDER, shortest) == pytest.approx(ours, abs=1e-4)


def test_what_is_saved_is_what_was_trained(tmp_path):
    torch.manual_seed(SEED)
    trained = demo_esm2.DemoEsm2()
    trained.save(tmp_path)
    ours = build_model(read_checkpoint(tmp_path), 6).state_dict()
    assert ours.keys() == trained.encoder.state_dict().keys()
    for name, tensor in trained.encoder.state_dict().items():
        assert torch.equal(ours[name], tensor), name


def test_the_script_makes_a_model(tmp_path):
    script = ROOT / "resources/models/train_demo.py"
    words = ["--family", "esm2", "--output", tmp_path, "--steps", "2", "--batch-tokens", "256"]
    printed = subprocess.run(
        [sys.executable, script, *words, PROTEINS],
        env={"PYTHONPATH": str(ROOT / "workflow/scripts")},
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    assert json.loads(printed)["trained_sequences"] == 59
    assert {path.name for path in tmp_path.iterdir()} == FILES
    theirs(tmp_path)


def test_what_is_held_out_is_never_trained_on(sequences):
    everything = train_demo.read_distinct([PROTEINS])
    ten = dict(list(everything.items())[:10])
    data = train_demo.split(everything, ten)
    parts = [data.trained, data.held_out, data.kept_out]
    assert sum(map(len, parts)) == len(everything) == len(set().union(*parts))
    assert data.kept_out == ten


def test_masks_hide_residues_only():
    rng, model = np.random.default_rng(SEED), demo_esm2.DemoEsm2
    tokens, bounds = train_demo.pack([model.encode(r.residues) for r in read_records(PROTEINS)])
    batch = train_demo.mask(model, tokens, bounds, rng)
    chosen = batch.chosen.numpy()
    untouched = np.setdiff1d(np.arange(len(tokens)), chosen)
    inputs = batch.inputs.numpy()
    assert (inputs[untouched] == tokens[untouched]).all()
    assert (batch.targets.numpy() == tokens[chosen]).all()
    assert np.isin(tokens[chosen], model.maskable).all()
    assert len(chosen) / len(tokens) == pytest.approx(0.15, abs=0.01)
    assert (inputs[chosen] == model.mask_token).mean() == pytest.approx(0.8, abs=0.03)
    # A twentieth of the random replacements is the residue itself.
    assert (inputs[chosen] == tokens[chosen]).mean() == pytest.approx(0.105, abs=0.02)
