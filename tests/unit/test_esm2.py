"""ESM-2: our rows against fair-esm's and transformers', and how checkpoints are read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from esm.model.esm2 import ESM2
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import EsmConfig, EsmModel

from seqembed.errors import ModelError
from seqembed.models.esm2 import Esm2, Esm2Architecture, default_inv_freq, encode_residues
from seqembed.models.esm2 import load_state as load_esm2
from seqembed.models.weights import build_model, read_checkpoint

SIZES = [(2, 32, 4), (3, 60, 5)]  # layers, width, heads; the second's query scale is inexact
RESIDUES = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC" * 4 + b"XBZUO", dtype=np.uint8)


def random_sequences(lengths: list[int], seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [b"M" + rng.choice(RESIDUES, size=length - 1).tobytes() for length in lengths]


SEQUENCES = [*random_sequences([1, 2, 37, 128, 255, 600]), b"MXBZUO"]


def randomise(model: nn.Module) -> nn.Module:
    """Weights large enough for attention to be far from flat, and biases far from zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 1.5 * parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.2
            parameter.copy_(noise * scale + (parameter if parameter.dim() == 1 else 0))
    return model.eval()


def load(source: Path) -> Esm2:
    return build_model(read_checkpoint(source))


def fair_model(size: tuple[int, int, int], token_dropout: bool = True) -> ESM2:
    layers, width, heads = size
    return randomise(ESM2(layers, width, heads, token_dropout=token_dropout))


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


def embed(model: Esm2, sequences: list[bytes]) -> list[Tensor]:
    """Each sequence's rows, (n + 2, width), from one packed batch."""
    tokens = [torch.from_numpy(encode_residues(s)) for s in sequences]
    lengths = torch.tensor([0] + [len(t) for t in tokens])
    with torch.inference_mode():
        rows = model(torch.cat(tokens), lengths.cumsum(0).int())
    return list(rows.split(lengths[1:].tolist()))


def assert_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-4
        assert torch.cosine_similarity(a.double(), b.double(), dim=-1).min() >= 0.99999


def fair_rows(model: ESM2) -> list[Tensor]:
    tokens = [torch.from_numpy(encode_residues(s))[None] for s in SEQUENCES]
    last = model.num_layers
    with torch.inference_mode():
        return [model(t, repr_layers=[last])["representations"][last][0] for t in tokens]


def save_fair(model: ESM2, path: Path) -> Path:
    settings = argparse.Namespace(
        encoder_layers=model.num_layers,
        encoder_embed_dim=model.embed_dim,
        encoder_attention_heads=model.attention_heads,
        token_dropout=model.token_dropout,
    )
    state = {f"encoder.sentence_encoder.{k}": v for k, v in model.state_dict().items()}
    torch.save({"cfg": {"model": settings}, "model": state}, path)
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("token_dropout", [True, False])
def test_rows_equal_fair_esm(size, token_dropout, tmp_path):
    theirs = fair_model(size, token_dropout)
    ours = load(save_fair(theirs, tmp_path / "model.pt"))
    assert not ours.training and ours.embedding.weight.dtype == torch.float32
    assert_close(embed(ours, SEQUENCES), fair_rows(theirs))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("token_dropout", [True, False])
def test_rows_equal_transformers(size, token_dropout, tmp_path):
    theirs = hf_model(size, token_dropout)
    theirs.save_pretrained(tmp_path)
    tokens = [torch.from_numpy(encode_residues(s))[None] for s in SEQUENCES]
    with torch.inference_mode():
        rows = [theirs(t, attention_mask=torch.ones_like(t)).last_hidden_state[0] for t in tokens]
    assert_close(embed(load(tmp_path), SEQUENCES), rows)


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
    expected = embed(load(save_fair(theirs, tmp_path / "m.pt")), SEQUENCES)
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
            for a, b in zip(embed(load(folder), SEQUENCES), expected, strict=True):
                assert torch.equal(a, b)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("where", ["fair", "bin"])
def test_a_pickled_payload_is_refused_and_not_executed(where, tmp_path):
    mark = tmp_path / "executed"
    hf_model(SIZES[0]).config.save_pretrained(tmp_path)
    path = tmp_path / {"fair": "model.pt", "bin": "pytorch_model.bin"}[where]
    torch.save({"cfg": Payload(mark), "model": {}}, path)
    with pytest.raises(ModelError, match="weights only"):
        load(path if where == "fair" else tmp_path)
    assert not mark.exists()


def test_stored_inv_freq_is_honoured_and_must_agree():
    theirs = fair_model(SIZES[0])
    for layer in theirs.layers:
        layer.self_attn.rot_emb.inv_freq.mul_(0.7)
    architecture = Esm2Architecture(2, 32, 4, 128)
    state = theirs.state_dict()
    ours = load_esm2(architecture, state)
    assert_close(embed(ours, SEQUENCES), fair_rows(theirs))
    assert torch.equal(ours.half().inv_freq, default_inv_freq(8) * 0.7)
    state["layers.1.self_attn.rot_emb.inv_freq"] = default_inv_freq(8)
    with pytest.raises(ModelError, match="differ"):
        load_esm2(architecture, state)


def test_a_missing_weight_is_named(tmp_path):
    hf_model(SIZES[0]).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.layer.1.output.dense.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("model_type", "bert"), ("position_embedding_type", "absolute"), ("vocab_size", 30)],
)
def test_what_is_not_a_rotary_esm2_is_refused(name, value, tmp_path):
    hf_model(SIZES[0]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ModelError, match=name):
        load(tmp_path)


def test_tokens_are_fair_esms():
    from esm.data import Alphabet

    convert = Alphabet.from_architecture("ESM-1b").get_batch_converter()
    for sequence in SEQUENCES:
        _, _, tokens = convert([("", sequence.decode())])
        assert encode_residues(sequence).tolist() == tokens[0].tolist()
    with pytest.raises(ModelError, match="residue 3, 'J'"):
        encode_residues(b"MAJ")


@pytest.mark.parametrize("wrong", [(0, 32, 4, 8), (2, 30, 4, 8), (2, 32, 32, 8), (2, None, 4, 8)])
def test_an_architecture_checks_itself(wrong):
    with pytest.raises(ModelError):
        Esm2Architecture(*wrong)


@pytest.mark.parametrize("size", SIZES)
def test_rows_do_not_depend_on_neighbours(size):
    layers, width, heads = size
    architecture = Esm2Architecture(layers, width, heads, 4 * width)
    model = load_esm2(architecture, fair_model(size).state_dict())
    rng = np.random.default_rng(5)
    for sequence in random_sequences([1, 3, 16, 61, 130, 400], seed=9):
        seen = []
        for trial in range(6):
            lengths = rng.integers(1, 300, size=rng.integers(1, 9)).tolist()
            # Below 128 tokens a matrix product may take another kernel, and other last bits.
            batch = random_sequences([128, *lengths], seed=trial)
            place = int(rng.integers(0, len(batch) + 1))
            batch.insert(place, sequence)
            seen.append(embed(model, batch)[place])
        assert all(torch.equal(rows, seen[0]) for rows in seen[1:])
