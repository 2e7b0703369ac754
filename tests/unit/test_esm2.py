"""ESM-2: our rows against fair-esm's and transformers', and how checkpoints are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models_in_plain import (
    SHAPES,
    WHOLE,
    assert_close,
    embed,
    embed_layers,
    encode,
    fair_layers,
    fair_model,
    random_proteins,
    randomise,
    save_fair,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import EsmConfig, EsmModel

from seqembed.errors import ModelError
from seqembed.models.encoders.esm2 import Esm2, default_inv_freq
from seqembed.models.families import Esm2Architecture
from seqembed.models.weights.build import build_model, read_checkpoint

SIZES = [(2, 32, 4), (3, 60, 5)]  # layers, width, heads; the second's query scale is inexact
SEQUENCES = [*random_proteins([1, 2, 37, 128, 255, 600]), b"MXBZUO"]
SAMPLE = [(6, 320, 20), (3, 480, 20), (2, 640, 20), (2, 1280, 20)]
LENGTHS = [1, 2, 50, 300, 1022, 2000] if WHOLE else [1, 2, 50, 300]


def load(source: Path, layer: int | None = None) -> Esm2:
    """The model up to a layer, its last if none is given."""
    checkpoint = read_checkpoint(source)
    model = build_model(checkpoint, checkpoint.architecture.layers if layer is None else layer)
    assert isinstance(model, Esm2)
    return model


def hf_model(size: tuple[int, int, int], token_dropout: bool = True) -> EsmModel:
    layers, width, heads = size
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=3 * width,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=token_dropout,
        layer_norm_eps=1e-5,
    )
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
    path, layers = save_fair(theirs, tmp_path / "model.pt"), [*range(size[0] + 1)]
    tokens = encode(random_proteins(LENGTHS))
    ours = [embed(load(path, 0), tokens), *embed_layers(load(path), tokens)]
    for layer, (a, b) in enumerate(zip(ours, fair_layers(theirs, tokens, layers), strict=True)):
        worst, cosine = assert_close(a, b)
        std, most = torch.cat(b).std().item(), torch.cat(b).abs().max().item()
        print(f"ESM-2 {size} {layer}: {worst:.1e} {cosine:.8f} std {std:.2f} max {most:.1f}")


def test_a_layer_is_the_same_whether_or_not_more_are_built(tmp_path):
    path = save_fair(fair_model((3, 60, 5)), tmp_path / "model.pt")
    tokens = encode(SEQUENCES)
    whole = [embed(load(path, 0), tokens), *embed_layers(load(path), tokens)]
    for layer in range(4):
        model = load(path, layer)
        assert len(model.layers) == layer
        pairs = zip(embed(model, tokens), whole[layer], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_is_not_there_is_refused(layer, tmp_path):
    path = save_fair(fair_model((3, 60, 5)), tmp_path / "model.pt")
    with pytest.raises(ModelError, match=f"model.pt: layer {layer} is not one of 0 to 3"):
        load(path, layer)


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


def fair_to_hf(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """fair-esm's names in Hugging Face's words, spelt out here a second time on purpose."""
    renames = [
        ("embed_tokens", "embeddings.word_embeddings"),
        ("emb_layer_norm_after", "encoder.emb_layer_norm_after"),
        ("self_attn_layer_norm", "attention.LayerNorm"),
        ("final_layer_norm", "LayerNorm"),
        ("self_attn.q_proj", "attention.self.query"),
        ("self_attn.k_proj", "attention.self.key"),
        ("self_attn.v_proj", "attention.self.value"),
        ("self_attn.out_proj", "attention.output.dense"),
        ("self_attn.rot_emb", "attention.self.rotary_embeddings"),
        ("fc1", "intermediate.dense"),
        ("fc2", "output.dense"),
    ]
    renamed = {}
    for name, tensor in state.items():
        if name.startswith(("lm_head", "contact_head")):
            continue
        new = name.replace("layers.", "encoder.layer.") if name.startswith("layers.") else name
        for old, word in renames:
            new = new.replace(old, word)
        renamed[new] = tensor.clone()
    return renamed


def test_all_formats_give_the_same_rows(tmp_path):
    theirs = fair_model(SIZES[0])
    tokens = encode(SEQUENCES)
    expected = embed(load(save_fair(theirs, tmp_path / "m.pt")), tokens)
    state = fair_to_hf(theirs.state_dict())
    config = EsmConfig(
        vocab_size=33, num_hidden_layers=2, hidden_size=32, num_attention_heads=4,
        intermediate_size=128, position_embedding_type="rotary", emb_layer_norm_before=False,
        token_dropout=True, layer_norm_eps=1e-5,
    )  # fmt: skip
    for number, prefix in enumerate(("", "esm.")):
        named = {prefix + name: tensor for name, tensor in state.items()}
        tensors, pickled = tmp_path / f"st{number}", tmp_path / f"bin{number}"
        for folder in (tensors, pickled):
            config.save_pretrained(folder)
        save_file(named, tensors / "model.safetensors")
        torch.save(named, pickled / "pytorch_model.bin")
        for folder in (tensors, pickled):
            for a, b in zip(embed(load(folder), tokens), expected, strict=True):
                assert torch.equal(a, b)


def test_stored_inv_freq_is_honoured(tmp_path):
    theirs = fair_model(SIZES[0])
    for layer in theirs.layers:
        layer.self_attn.rot_emb.inv_freq.mul_(0.7)
    ours = load(save_fair(theirs, tmp_path / "model.pt"))
    tokens = encode(SEQUENCES)
    assert_close(embed(ours, tokens), fair_layers(theirs, tokens, [2])[0])
    assert torch.equal(ours.half().inv_freq, default_inv_freq(8) * 0.7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_cast_as_a_whole_model_would_be(dtype, tmp_path):
    checkpoint = read_checkpoint(save_fair(fair_model(SIZES[1]), tmp_path / "model.pt"))
    model, exact = build_model(checkpoint, 3, dtype), build_model(checkpoint, 3)
    assert model.inv_freq.dtype == torch.float32
    for name, tensor in exact.to(dtype).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("wrong", [(0, 32, 4, 8), (2, 30, 4, 8), (2, 32, 32, 8), (2, None, 4, 8)])
def test_an_architecture_checks_itself(wrong):
    with pytest.raises(ModelError):
        Esm2Architecture(*wrong)
