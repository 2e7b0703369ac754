"""DNABERT-S: our rows against multimolecule's and against the formulas, and how it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models_in_plain import (
    WHOLE,
    assert_close,
    dnabert_folder,
    dnabert_state,
    dnabert_tokenizer,
    embed,
    embed_layers,
    encode,
    multimolecule_layers,
    plain_dnabert,
    random_dna,
    random_tokens,
)
from safetensors.torch import load_file, save_file

from seqembed.errors import ModelError
from seqembed.models.encoders.dnabert_s import DnabertS
from seqembed.models.weights.build import build_model, read_checkpoint

SMALL = (3, 48, 12, 80)  # layers, width, heads, ffn_width
# All of DNABERT-S's own 12 layers, and longer sequences, only on demand: minutes.
DEPTHS = [1, 3, 12] if WHOLE else [1]
LENGTHS = [1, 2, 37, 256, 700, 3000] if WHOLE else [1, 2, 37, 256, 700]


def load(folder: Path, layer: int) -> DnabertS:
    model = build_model(read_checkpoint(folder), layer)
    assert isinstance(model, DnabertS)
    return model


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12])
def test_every_layer_equals_the_formulas(heads, tmp_path):
    folder = dnabert_folder(tmp_path, (3, 48, heads, 80))
    state = load_file(folder / "model.safetensors")
    tokens = random_tokens([1, 2, 90, 254, 255, 600])
    expected = [plain_dnabert(state, heads, t) for t in tokens]
    for layer in range(4):
        assert_close(embed(load(folder, layer), tokens), [rows[layer] for rows in expected])


@pytest.mark.parametrize("layers", DEPTHS)
def test_every_layer_equals_multimolecule(layers, tmp_path):
    pytest.importorskip("multimolecule", reason="multimolecule (AGPL-3.0) is not installed")
    folder = dnabert_folder(tmp_path, (layers, 768, 12, 3072))
    state = load_file(folder / "model.safetensors")
    tokens = random_tokens(LENGTHS) + encode(random_dna([1, 50, 3000]), dnabert_tokenizer())
    theirs = multimolecule_layers(state, 12, tokens)
    ours = [embed(load(folder, 0), tokens), *embed_layers(load(folder, layers), tokens)]
    for layer, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        worst, cosine = assert_close(a, b)
        scale = torch.cat(b).std().item()
        print(f"DNABERT-S {layers} layers, {layer}: {worst:.1e} {cosine:.8f} std {scale:.2f}")


def test_a_layer_is_the_same_whether_or_not_more_are_built(tmp_path):
    folder = dnabert_folder(tmp_path, SMALL)
    tokens = random_tokens([128, 5, 300])
    whole = [embed(load(folder, 0), tokens), *embed_layers(load(folder, 3), tokens)]
    for layer in range(4):
        model = load(folder, layer)
        assert len(model.layers) == layer
        pairs = zip(embed(model, tokens), whole[layer], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_is_not_there_is_refused(layer, tmp_path):
    with pytest.raises(ModelError, match=f"layer {layer} is not one of 0 to 3"):
        load(dnabert_folder(tmp_path, SMALL), layer)


def test_all_names_and_formats_give_the_same_rows(tmp_path):
    tokens = random_tokens([128, 5])
    state = dnabert_state(3, 48, 80)
    expected = embed(load(dnabert_folder(tmp_path / "plain", SMALL), 3), tokens)
    legacy = {}
    for name, tensor in state.items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        legacy[old.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    prefixed = {f"bert.{name}": tensor for name, tensor in legacy.items()}
    heads = {"cls.predictions.bias": torch.ones(9), "bert.pooler.dense.bias": torch.ones(9)}
    for number, named in enumerate((legacy, prefixed, prefixed | heads)):
        tensors = dnabert_folder(tmp_path / f"st{number}", SMALL)
        save_file(named, tensors / "model.safetensors")
        pickled = dnabert_folder(tmp_path / f"bin{number}", SMALL, pickled=True)
        torch.save(named, pickled / "pytorch_model.bin")
        for folder in (tensors, pickled):
            rows = embed(load(folder, 3), tokens)
            assert all(torch.equal(a, b) for a, b in zip(rows, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_cast_but_not_the_slopes(dtype, tmp_path):
    checkpoint = read_checkpoint(dnabert_folder(tmp_path, SMALL))
    exact = build_model(checkpoint, 3)
    model = build_model(checkpoint, 3, dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    for cast in (model, exact.to(dtype)):
        assert cast.slopes.dtype == torch.float32
        assert torch.equal(cast.slopes, build_model(checkpoint, 3).slopes)


def test_eps_is_1e_12_where_the_config_does_not_say(tmp_path):
    folder = dnabert_folder(tmp_path, SMALL)
    config = json.loads((folder / "config.json").read_text())
    del config["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_checkpoint(folder).architecture.layer_norm_eps == 1e-12
