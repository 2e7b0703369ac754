"""Our rows against fair-esm's, transformers', multimolecule's, and against the formulas."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from models_in_plain import (
    SHAPES,
    WHOLE,
    assert_close,
    assert_same,
    dnabert_folder,
    dnabert_tokenizer,
    embed,
    embed_layers,
    encode,
    fair_layers,
    fair_model,
    multimolecule_layers,
    plain_dnabert,
    random_dna,
    random_proteins,
    random_tokens,
    randomise,
    rename,
    rename_to_hugging_face,
    save_fair,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import EsmConfig, EsmModel

from seqembed.errors import ModelError
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.encoders.rotary import default_inv_freq
from seqembed.models.families import Esm2Architecture
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import read_checkpoint

SIZES = [(2, 32, 4), (3, 60, 5)]  # layers, width, heads; the second's query scale is inexact
SEQUENCES = [*random_proteins([1, 2, 37, 128, 255, 600]), b"MXBZUO"]
SAMPLE = [(6, 320, 20), (3, 480, 20), (2, 640, 20), (2, 1280, 20)]
LENGTHS = [1, 2, 50, 300, 1022, 2000] if WHOLE else [1, 2, 50, 300]
DNABERT = (3, 48, 12, 80)  # layers, width, heads, ffn_width
# All of DNABERT-S's own 12 layers, and longer sequences, only on demand: minutes.
DNABERT_DEPTHS = [1, 3, 12] if WHOLE else [1]
DNABERT_LENGTHS = [1, 2, 37, 256, 700, 3000] if WHOLE else [1, 2, 37, 256, 700]


def load(source: Path, layer: int | None = None) -> Encoder:
    """The model up to a layer, its last if none is given."""
    checkpoint = read_checkpoint(source)
    return build_model(checkpoint, checkpoint.architecture.layers if layer is None else layer)


def every_layer(source: Path, tokens: list[Tensor]) -> list[list[Tensor]]:
    return [embed(load(source, 0), tokens), *embed_layers(load(source), tokens)]


def hf_model(size: tuple[int, int, int], token_dropout: bool = True, ffn: int = 3) -> EsmModel:
    layers, width, heads = size
    config = EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, num_hidden_layers=layers,
        hidden_size=width, num_attention_heads=heads, intermediate_size=ffn * width,
        position_embedding_type="rotary", emb_layer_norm_before=False,
        token_dropout=token_dropout, layer_norm_eps=1e-5,
    )  # fmt: skip
    return randomise(EsmModel(config, add_pooling_layer=False))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("token_dropout", [True, False])
def test_rows_equal_fair_esm(size, token_dropout, tmp_path):
    theirs = fair_model(size, token_dropout)
    ours = load(save_fair(theirs, tmp_path / "model.pt"))
    assert not ours.training and ours.embedding.weight.dtype == torch.float32
    tokens = encode(SEQUENCES)
    assert_close(embed(ours, tokens), fair_layers(theirs, tokens, [size[0]])[0])


@pytest.mark.parametrize("size", SHAPES if WHOLE else SAMPLE)
def test_every_layer_equals_fair_esm(size, tmp_path):
    theirs = fair_model(size)
    tokens = encode(random_proteins(LENGTHS))
    ours = every_layer(save_fair(theirs, tmp_path / "model.pt"), tokens)
    pairs = zip(ours, fair_layers(theirs, tokens, [*range(size[0] + 1)]), strict=True)
    for layer, (a, b) in enumerate(pairs):
        worst, cosine = assert_close(a, b)
        std, most = torch.cat(b).std().item(), torch.cat(b).abs().max().item()
        print(f"ESM-2 {size} {layer}: {worst:.1e} {cosine:.8f} std {std:.2f} max {most:.1f}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("token_dropout", [True, False])
def test_rows_equal_transformers(size, token_dropout, tmp_path):
    theirs = hf_model(size, token_dropout)
    theirs.save_pretrained(tmp_path)
    tokens = encode(SEQUENCES)
    with torch.inference_mode():
        masks = [torch.ones_like(t[None]) for t in tokens]
        results = [theirs(t[None], attention_mask=m) for t, m in zip(tokens, masks, strict=True)]
    assert_close(embed(load(tmp_path), tokens), [r.last_hidden_state[0] for r in results])


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12])
def test_every_layer_equals_dnaberts_formulas(heads, tmp_path):
    folder = dnabert_folder(tmp_path, (3, 48, heads, 80))
    state = load_file(folder / "model.safetensors")
    tokens = random_tokens([1, 2, 90, 254, 255, 600])
    expected = [plain_dnabert(state, heads, t) for t in tokens]
    for layer, rows in enumerate(every_layer(folder, tokens)):
        assert_close(rows, [layers[layer] for layers in expected])


@pytest.mark.parametrize("layers", DNABERT_DEPTHS)
def test_every_layer_equals_multimolecule(layers, tmp_path):
    pytest.importorskip("multimolecule", reason="multimolecule (AGPL-3.0) is not installed")
    folder = dnabert_folder(tmp_path, (layers, 768, 12, 3072))
    state = load_file(folder / "model.safetensors")
    tokens = random_tokens(DNABERT_LENGTHS)
    tokens += encode(random_dna([1, 50, 3000]), dnabert_tokenizer())
    theirs = multimolecule_layers(state, 12, tokens)
    for layer, (a, b) in enumerate(zip(every_layer(folder, tokens), theirs, strict=True)):
        worst, cosine = assert_close(a, b)
        scale = torch.cat(b).std().item()
        print(f"DNABERT-S {layers} layers, {layer}: {worst:.1e} {cosine:.8f} std {scale:.2f}")


def example(family: str, folder: Path) -> tuple[Path, list[Tensor]]:
    """A small random model of a family, and tokens for it."""
    if family == "esm2":
        return save_fair(fair_model(SIZES[1]), folder / "m.pt"), encode(SEQUENCES)
    return dnabert_folder(folder / "plain", DNABERT), random_tokens([128, 5, 300])


BOTH = pytest.mark.parametrize("family", ["esm2", "dnabert_s"])


@BOTH
def test_a_layer_is_the_same_whether_or_not_more_are_built(family, tmp_path):
    source, tokens = example(family, tmp_path)
    for layer, rows in enumerate(every_layer(source, tokens)):
        model = load(source, layer)
        assert len(model.layers) == layer
        assert_same(embed(model, tokens), rows)


@BOTH
def test_all_names_and_formats_give_the_same_rows(family, tmp_path):
    source, tokens = example(family, tmp_path)
    expected, folder = embed(load(source), tokens), tmp_path / "plain"
    if family == "esm2":
        hf_model(SIZES[1], ffn=4).config.save_pretrained(folder)
        state, wrapped = rename_to_hugging_face(fair_model(SIZES[1]).state_dict()), "esm."
    else:
        words = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        state, wrapped = rename(load_file(folder / "model.safetensors"), words), "bert."
    for prefix in ("", wrapped):
        named = {prefix + name: tensor.clone() for name, tensor in state.items()}
        for form, save in (("model.safetensors", save_file), ("pytorch_model.bin", torch.save)):
            copy = tmp_path / f"{prefix}{form}"
            shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
            save(named, copy / form)
            assert_same(embed(load(copy), tokens), expected)


def test_stored_inv_freq_is_honoured(tmp_path):
    theirs = fair_model(SIZES[0])
    for layer in theirs.layers:
        layer.self_attn.rot_emb.inv_freq.mul_(0.7)
    ours = load(save_fair(theirs, tmp_path / "model.pt"))
    tokens = encode(SEQUENCES)
    assert_close(embed(ours, tokens), fair_layers(theirs, tokens, [2])[0])
    assert torch.equal(ours.half().inv_freq, default_inv_freq(8) * 0.7)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_cast_as_a_whole_model_would_be(dtype, family, tmp_path):
    checkpoint = read_checkpoint(example(family, tmp_path)[0])
    model, exact = build_model(checkpoint, 3, dtype), build_model(checkpoint, 3).to(dtype)
    assert {buffer.dtype for buffer in exact.buffers()} == {torch.float32}
    for name, tensor in exact.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_eps_is_1e_12_where_the_config_does_not_say(tmp_path):
    folder = dnabert_folder(tmp_path, DNABERT)
    config = json.loads((folder / "config.json").read_text())
    del config["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_checkpoint(folder).architecture.layer_norm_eps == 1e-12


@pytest.mark.parametrize("wrong", [(0, 32, 4, 8), (2, 30, 4, 8), (2, 32, 32, 8), (2, None, 4, 8)])
def test_an_architecture_checks_itself(wrong):
    with pytest.raises(ModelError):
        Esm2Architecture(*wrong)
