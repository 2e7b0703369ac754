"""The trained demonstration models, and the scripts that make them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import demo_dnabert_s
import demo_esm2
import numpy as np
import pytest
import torch
import train_demo
from demo_model import DemoModel
from indexing import read_records
from models_in_plain import assert_close, embed_layers, encode, plain_dnabert
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import EsmForMaskedLM

from seqembed.models.encoders.tokenization import BpeTokenizer
from seqembed.models.load import load_prepared
from seqembed.models.prepare import prepare_model
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
SEED = train_demo.SEED


@dataclass(frozen=True)
class Demo:
    """A model of the checkout, and what its card says of the bundled example.

    names: of the records that the figures are of; empty: all. loss: nats a token, the mean over
    `seeds`; margin: so much better is it than the best guess without context.
    """

    kind: type[DemoModel]
    folder: Path
    files: set[str]
    fasta: Path
    names: tuple[str, ...]
    loss: float
    seeds: tuple[int, ...]
    margin: float


DEMOS = {
    "esm2": Demo(
        demo_esm2.DemoEsm2,
        ROOT / "resources/models/esm2_demo",
        {"config.json", "vocab.txt", "model.safetensors"},
        ROOT / "resources/example/proteins.fasta",
        (),
        2.8512,
        (train_demo.SEED,),
        0.0,
    ),
    "dnabert_s": Demo(
        demo_dnabert_s.DemoDnabertS,
        ROOT / "resources/models/dnabert_s_demo",
        {"config.json", "tokenizer.json", "model.safetensors"},
        ROOT / "resources/example/contigs.fasta",
        ("ecoli536_4700001_4704000", "lambda_44001_47000"),
        3.4861,
        (0, 1),
        0.2,
    ),
}
BOTH = pytest.mark.parametrize("family", DEMOS)
ESM2, DNABERT_S = DEMOS.values()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Many small operations: threads that wait for a busy processor cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def read(demo: Demo) -> dict[str, bytes]:
    return {record.sequence_id: record.residues for record in read_records(demo.fasta)}


@BOTH
def test_the_folder_is_small_and_says_what_it_is_for(family):
    folder = DEMOS[family].folder
    assert {path.name for path in folder.iterdir()} == DEMOS[family].files | {"README.md"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("This model is") and "DEMONSTRATION" in card.splitlines()[0]


@BOTH
def test_the_workflow_prepares_and_loads_it(family, tmp_path):
    demo, output = DEMOS[family], tmp_path / "demo.json"
    prepare_model("demo", str(demo.folder), output, logging.getLogger("tests"))
    architecture = demo.kind.load(demo.folder).encoder.architecture
    assert load_prepared(output, architecture.layers).architecture == architecture


@BOTH
def test_its_loss_is_what_its_card_says(family):
    demo = DEMOS[family]
    model, records = demo.kind.load(demo.folder), read(demo)
    sequences = list({records[name]: None for name in demo.names or records})
    loss = np.mean([train_demo.evaluate(model, sequences, seed) for seed in demo.seeds])
    assert loss == pytest.approx(demo.loss, abs=1e-3)
    assert str(demo.loss) in (demo.folder / "README.md").read_text(encoding="utf-8")
    # The tokens' own frequencies are the best guess without context.
    assert loss < train_demo.entropy(model, sequences) - demo.margin


@BOTH
def test_what_is_saved_is_what_was_trained(family, tmp_path):
    torch.manual_seed(SEED)
    demo = DEMOS[family]
    trained = demo.kind.start(read(demo).values())
    trained.save(tmp_path)
    loaded = demo.kind.load(tmp_path).state_dict()
    assert loaded.keys() == trained.state_dict().keys()
    for name, tensor in trained.state_dict().items():
        assert torch.allclose(loaded[name], tensor, rtol=1e-6), name


@BOTH
def test_the_script_makes_a_model(family, tmp_path):
    demo = DEMOS[family]
    words = ["--family", family, "--output", tmp_path, "--steps", "2", "--batch-tokens", "256"]
    printed = subprocess.run(
        [sys.executable, ROOT / "resources/models/train_demo.py", *words, demo.fasta],
        env={"PYTHONPATH": str(ROOT / "workflow/scripts")},
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    assert json.loads(printed)["trained_sequences"] > 0
    assert {path.name for path in tmp_path.iterdir()} == demo.files
    read_checkpoint(tmp_path)


def load_into_transformers(folder: Path) -> EsmForMaskedLM:
    """transformers' own model, which finds every weight it looks for and no other."""
    model, report = EsmForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@torch.inference_mode()
def test_transformers_computes_the_same_loss():
    shortest = sorted(read(ESM2).values(), key=len)[:30]
    model, ours = load_into_transformers(ESM2.folder), ESM2.kind.load(ESM2.folder)
    losses = []
    for batch in train_demo.all_hidden(ours, shortest, SEED):
        inputs = batch.inputs[None]
        logits = model(inputs, attention_mask=torch.ones_like(inputs)).logits[0]
        losses.append(cross_entropy(logits[batch.chosen], batch.targets, reduction="none"))
    expected = train_demo.evaluate(ours, shortest, SEED)
    assert torch.cat(losses).mean().item() == pytest.approx(expected, abs=1e-4)


def test_dnaberts_rows_are_those_of_the_plain_formulas():
    some = [residues for residues in read(DNABERT_S).values() if len(residues) <= 2500]
    folder = DNABERT_S.folder
    tokens = encode(some, BpeTokenizer(folder / "tokenizer.json"))
    state = {k.removeprefix("bert."): v for k, v in load_file(folder / "model.safetensors").items()}
    heads = demo_dnabert_s.ARCHITECTURE.heads
    theirs = [plain_dnabert(state, heads, t) for t in tokens]
    ours = embed_layers(build_model(read_checkpoint(folder), 3), tokens)
    for number, rows in enumerate(ours, 1):
        assert_close(rows, [layers[number] for layers in theirs])


def test_dnabert_was_trained_on_the_tokens_that_the_workflow_makes():
    model = DNABERT_S.kind.load(DNABERT_S.folder)
    tokenizer = BpeTokenizer(DNABERT_S.folder / "tokenizer.json")
    assert tokenizer.letters == b"ACGT"
    for residues in read(DNABERT_S).values():
        assert np.array_equal(model.encode(residues), tokenizer.encode(residues))


def test_what_is_held_out_is_never_trained_on():
    everything = train_demo.read_distinct([ESM2.fasta])
    ten = dict(list(everything.items())[:10])
    data = train_demo.split(everything, ten)
    parts = [data.trained, data.held_out, data.kept_out]
    assert sum(map(len, parts)) == len(everything) == len(set().union(*parts))
    assert data.kept_out == ten


def test_what_is_held_out_is_in_no_strand_trained_on():
    genome = read(DNABERT_S)["lambda_1_6000"]
    trained, held_out = demo_dnabert_s.hold_out({b"": genome})
    border = 5400
    assert b"".join(held_out.values()) == genome[border:]
    forward = genome[:border]
    backward = forward.translate(bytes.maketrans(b"ACGT", b"TGCA"))[::-1]
    assert b"".join(trained.values()) == forward + backward


def test_the_contigs_are_what_their_names_say():
    contigs = read(DNABERT_S)
    assert len(contigs) == 13 and len(set(contigs.values())) == 12
    for name, residues in contigs.items():
        start, stop = map(int, name.removesuffix("_copy").split("_")[1:])
        assert len(residues) == stop - start + 1 and set(residues) == set(b"ACGT")


def test_masks_hide_residues_only():
    rng, model = np.random.default_rng(SEED), demo_esm2.DemoEsm2
    tokens, bounds = train_demo.pack([model.encode(residues) for residues in read(ESM2).values()])
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
