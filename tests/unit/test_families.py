"""Each family in the table: its rows, tokens and layouts are its authors', and what else it states.

Its rows through the entry programs are in test_reference.py, their bits in test_row_bits.py.
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import worker_runs
from batch_runs import LAYOUT_OF
from families_table import EACH, SIZES, TABLE, Member
from indexing import make_check
from models_in_plain import assert_close, assert_same, embed, encode, every_layer, load
from t5_in_plain import ANKH3_TOKENS
from torch import Tensor, nn
from worker_runs import WorkerProcess, make_project

from seqembed.checkpoints.blocks import list_blocks
from seqembed.environment import EnvConfig
from seqembed.inference.batches import PackedWindow
from seqembed.inference.pooling import pooled_span
from seqembed.kernels import plain
from seqembed.models.families import FAMILIES
from seqembed.models.load import load_prepared
from seqembed.models.prepare import prepare_model
from seqembed.models.prepared import read_prepared
from seqembed.models.weights import checkpoint as checkpoints
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import read_checkpoint
from seqembed.settings.precision import resolve_precision

LOGGER = logging.getLogger("seqembed.tests")
GOLDEN = json.loads((Path(__file__).parents[1] / "data/golden_tokens.json").read_text())
REFERENCES = [(*size, name) for size in SIZES for name in size[0].references]
# A family of each encoder.
ENCODERS = {LAYOUT_OF[type(m.small[0])].encoder: m for m in reversed(TABLE)}.values()
LAYOUTS = [(member, name) for member in TABLE for name in [*member.layouts][1:]]


def tokens_of(member: Member, lengths: tuple[int, ...] = (128, 5, 300)) -> list[Tensor]:
    sequences = member.sequences([*member.readable(*lengths)])
    return encode([*sequences, member.odd], member.tokenizer)


@functools.lru_cache(maxsize=1)
def ours(
    member: Member, architecture: Any, lengths: tuple[int, ...]
) -> tuple[Any, list[Tensor], list[list[Tensor]]]:
    """Random weights, tokens, and our rows of each layer."""
    weights, tokens = member.make(architecture), tokens_of(member, lengths)
    with tempfile.TemporaryDirectory() as folder:
        source = member.write(weights, architecture, Path(folder) / "model")
        assert read_checkpoint(source).architecture == architecture
        return weights, tokens, every_layer(source, tokens)


def pooled(rows: list[Tensor], member: Member) -> list[Tensor]:
    """The mean and the maximum of each sequence's rows, by the worker's own steps."""
    bounds = pairwise(accumulate(map(len, rows), initial=0))
    specials = FAMILIES[member.family].specials
    ends = [(a + specials.before, b - specials.after) for a, b in bounds]
    windows = [PackedWindow(0, a, b, True, True) for a, b in ends]
    spans = [pooled_span(window, "mean", specials, member.pools_specials) for window in windows]
    return [row for most in (False, True) for row in plain.pool(torch.cat(rows), spans, most)]


def plainly_pooled(rows: list[Tensor], member: Member) -> list[Tensor]:
    counted = [own if member.pools_specials else member.inner(own) for own in rows]
    return [*(own.mean(0) for own in counted), *(own.amax(0) for own in counted)]


@pytest.mark.parametrize(
    ("member", "architecture", "lengths", "name"),
    REFERENCES,
    ids=[f"{m.name} {a.layers}x{a.width} {name}" for m, a, _, name in REFERENCES],
)
def test_every_layer_is_the_references(member, architecture, lengths, name):
    weights, tokens, layers = ours(member, architecture, lengths)
    theirs = member.references[name](weights, architecture, tokens)
    for layer, (a, b) in enumerate(zip(layers, theirs, strict=True)):
        worst, cosine = assert_close(a, b, scaled=True, what=f"layer {layer}")
        assert_close(pooled(a, member), plainly_pooled(b, member), scaled=True)
        std, most = torch.cat(b).std().item(), torch.cat(b).abs().max().item()
        print(f"{member.name} {layer}: {worst:.1e} {cosine:.8f} std {std:.2f} max {most:.1f}")


@functools.cache
def first_layout(member: Member) -> tuple[Any, list[Tensor]]:
    """Random weights, and their rows by the first layout."""
    with tempfile.TemporaryDirectory() as folder:
        weights = member.make(member.small[0])
        source = member.write(weights, member.small[0], Path(folder) / "model")
        return weights, embed(load(source), tokens_of(member))


@pytest.mark.parametrize(("member", "name"), LAYOUTS, ids=[f"{m.name} {n}" for m, n in LAYOUTS])
def test_all_layouts_give_the_same_bits(member, name, tmp_path, monkeypatch):
    weights, expected = first_layout(member)
    if member.official:
        # Files without settings are read if they are of an official size.
        monkeypatch.setitem(*member.official)
    source = member.layouts[name](weights, member.small[0], tmp_path / "source")
    prepare_model("mine", str(source), tmp_path / "mine.json", LOGGER)
    model = load_prepared(tmp_path / "mine.json", member.small[0].layers)
    assert_same(embed(model, tokens_of(member)), expected)
    assert read_prepared(tmp_path / "mine.json").architecture == member.small[0]


@EACH
def test_a_layer_is_the_same_whether_or_not_more_are_built(member, tmp_path):
    source = member.write(member.make(member.small[1]), member.small[1], tmp_path / "model")
    tokens = tokens_of(member)
    for layer, rows in enumerate(every_layer(source, tokens)):
        model = load(source, layer)
        assert len(model.layers) == layer
        assert_same(embed(model, tokens), rows)


@EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_cast_as_a_whole_model_would_be(dtype, member, tmp_path):
    source = member.write(member.make(member.small[1]), member.small[1], tmp_path / "model")
    checkpoint, layers = read_checkpoint(source), member.small[1].layers
    model, exact = build_model(checkpoint, layers, dtype), build_model(checkpoint, layers).to(dtype)
    assert {buffer.dtype for buffer in exact.buffers()} <= {torch.float32, torch.int64}
    for name, tensor in exact.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@EACH
def test_every_norm_has_the_authors_eps(member, tmp_path):
    """Random rows are too far from zero to show it."""
    source = member.write(member.make(member.small[1]), member.small[1], tmp_path / "model")
    kinds = (nn.LayerNorm, nn.RMSNorm)
    norms = [part for part in load(source).modules() if isinstance(part, kinds)]
    assert len(norms) > 2 and {norm.eps for norm in norms} == {member.eps}


# Tokens.


@EACH
def test_tokens_are_the_authors(member):
    for sequence in [*member.sequences([1, 2, 600]), member.odd]:
        assert member.tokenizer.encode(sequence).tolist() == member.encode(sequence)
    for name in member.golden:
        sequences = [sequence.encode() for sequence in GOLDEN["sequences"]]
        found = [tokens.tolist() for tokens in member.tokenizer.encode_all(sequences)]
        before = FAMILIES[member.family].specials.before if member.family == "ankh3" else 0
        assert [tokens[before:] for tokens in found] == GOLDEN["input_ids"][name]


@pytest.mark.parametrize("member", [m for m in TABLE if FAMILIES[m.family].vocabulary])
def test_unknown_residues_are_unknown_tokens_one_by_one(member):
    vocabulary = FAMILIES[member.family].vocabulary
    unknown = (vocabulary.tokens or ANKH3_TOKENS).index(vocabulary.unknown)
    assert member.inner(member.tokenizer.encode(b"J*|\xff")).tolist() == [unknown] * 4
    assert member.tokenizer.count(b"J*|\xff") == 4


# What a family states.


@EACH
def test_the_facts_are_the_authors(member):
    family = FAMILIES[member.family]
    facts = ("max_length", "reads_whole", "positions_end", "pools_specials", "has_cls", "half")
    for fact in facts:
        assert getattr(family, fact) == getattr(member, fact), fact


@EACH
def test_auto_is_the_authors_precision_on_a_card_that_has_it(member, monkeypatch):
    half, environment = FAMILIES[member.family].half, EnvConfig.from_environ({})

    def auto(name: str, *capability: int) -> str:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        return resolve_precision("auto", torch.device(name), environment, half)

    assert auto("cuda", 8, 0) == member.half
    assert auto("cuda", 7, 5) == auto("cpu") == "fp32"


@pytest.mark.parametrize(("licence", "warned"), [("CC-BY-NC-SA-4.0", True), ("MIT", False)])
@EACH
def test_a_licence_that_forbids_commercial_use_is_said(
    licence, warned, member, tmp_path, monkeypatch, caplog
):
    layouts = [
        replace(layout, family=replace(layout.family, licence=licence))
        for layout in checkpoints.LAYOUTS
    ]
    monkeypatch.setattr(checkpoints, "LAYOUTS", layouts)
    source = member.write(member.make(member.small[1]), member.small[1], tmp_path / "model")
    prepare_model("mine", str(source), tmp_path / "mine.json", LOGGER)
    message = "mine: its weights are under CC-BY-NC-SA-4.0, which forbids commercial use"
    assert caplog.messages == [message] * warned


# A worker that is killed, and its successor.


@pytest.mark.parametrize("member", ENCODERS, ids=lambda member: member.name)
def test_a_killed_workers_successor_gives_the_same_bytes(member, context, tmp_path):
    source = member.write(member.make(member.small[1]), member.small[1], tmp_path / "model")
    prepare_model("mine", str(source), tmp_path / "mine.json", LOGGER)
    lengths = member.readable(1, 2, 130, 300, *range(50, 200, 12))
    sequences = [sequence.decode() for sequence in member.sequences([*lengths])]
    letters, molecule = member.tokenizer.letters + b"N", FAMILIES[member.family].molecule
    check, contents = make_check("unk", molecule, letters), []
    for name, faults in (("whole", [None]), ("killed", [worker_runs.killed_after_a_block, None])):
        project = make_project(tmp_path / name, tmp_path / "mine.json", sequences, check=check)
        for fault in faults:
            worker = WorkerProcess(context, project, fault, token_budget=300)
            outcome = worker.finish()
            assert outcome.exit_code == (-9 if fault else 0), project.log.read_text()
            if fault:
                assert list_blocks(project.checkpoints())
        assert bool(outcome.status["resumed_sequences"]) is (name == "killed")
        contents.append(project.content())
    assert contents[0] == contents[1]
