"""Random ESM-2, ESM-1b and ESM-1v of fair-esm and of transformers: their files and their rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from esm.data import Alphabet
from esm.model.esm1 import ProteinBertModel
from esm.model.esm2 import ESM2
from models_in_plain import randomise, rename
from torch import Tensor, nn
from transformers import EsmConfig, EsmForMaskedLM

from seqembed.models.architectures import Esm1bArchitecture, Esm2Architecture

FairModel = ESM2 | ProteinBertModel
EsmArchitecture = Esm1bArchitecture | Esm2Architecture
# What only models have that predict residues or contacts, and what transformers computes.
BESIDE = ("lm_head", "contact_head", "rotary_embeddings", "position_ids")


def fair_model(architecture: EsmArchitecture) -> FairModel:
    layers, width, heads = architecture.layers, architecture.width, architecture.heads
    dropout = architecture.token_dropout
    torch.manual_seed(1)
    if isinstance(architecture, Esm2Architecture):
        return randomise(ESM2(layers, width, heads, token_dropout=dropout))
    settings = argparse.Namespace(
        arch="roberta_large",
        layers=layers,
        embed_dim=width,
        ffn_embed_dim=architecture.ffn_width,
        attention_heads=heads,
        max_positions=1024,
        token_dropout=dropout,
        emb_layer_norm_before=architecture.embedding_norm,
    )
    return randomise(ProteinBertModel(settings, Alphabet.from_architecture("ESM-1b")))


def fair_layers(model: FairModel, tokens: list[Tensor], layers: list[int]) -> list[list[Tensor]]:
    """fair-esm's rows of each sequence, for each of `layers`."""
    with torch.inference_mode():
        results = [model(t[None], repr_layers=layers)["representations"] for t in tokens]
    return [[result[layer][0] for result in results] for layer in layers]


def fair_content(model: FairModel) -> dict[str, Any]:
    """The content of an official file, whose language model's head lies one level up."""
    prefixes = {True: "encoder.", False: "encoder.sentence_encoder."}
    state = {prefixes[n.startswith("lm_head")] + n: t for n, t in model.state_dict().items()}
    state = {name: tensor for name, tensor in state.items() if "contact_head" not in name}
    if isinstance(model, ProteinBertModel):
        # esm/pretrained.py removes "encoder_"; it looks for the norm among the weights.
        own = {"layers", "embed_dim", "ffn_embed_dim", "attention_heads"}
        known = vars(model.args).items()
        settings = {f"encoder_{name}" if name in own else name: value for name, value in known}
        del settings["emb_layer_norm_before"]
        return {"args": argparse.Namespace(**settings), "model": state}
    cfg = argparse.Namespace(
        encoder_layers=model.num_layers,
        encoder_embed_dim=model.embed_dim,
        encoder_attention_heads=model.attention_heads,
        token_dropout=model.token_dropout,
        # fairseq's settings may name an architecture of its own beside.
        arch="roberta_large",
    )
    return {"cfg": {"model": cfg}, "model": state, "epoch": 1}


def save_fair(model: FairModel, path: Path) -> Path:
    torch.save(fair_content(model), path)
    return path


def rename_to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """fair-esm's names in Hugging Face's words, spelt out here a second time on purpose."""
    words = {
        "embed_tokens": "embeddings.word_embeddings",
        "embed_positions": "embeddings.position_embeddings",
        "emb_layer_norm_before": "embeddings.layer_norm",
        "emb_layer_norm_after": "encoder.emb_layer_norm_after",
        "self_attn_layer_norm": "attention.LayerNorm",
        "final_layer_norm": "LayerNorm",
        "self_attn.q_proj": "attention.self.query",
        "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value",
        "self_attn.out_proj": "attention.output.dense",
        "self_attn.rot_emb": "attention.self.rotary_embeddings",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
        "layers.": "encoder.layer.",
    }
    return rename(state, words)


def for_masked_lm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """EsmForMaskedLM's names, without rotary frequencies, as some versions of transformers save."""
    named = rename_to_hugging_face(state).items()
    beside = ("lm_head", "contact_head")
    kept = ((name, tensor) for name, tensor in named if "inv_freq" not in name)
    return {(n if n.startswith(beside) else f"esm.{n}"): tensor for n, tensor in kept}


def by_transformers(model: FairModel, architecture: EsmArchitecture) -> EsmForMaskedLM:
    """The same weights in transformers' model."""
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        num_hidden_layers=architecture.layers,
        hidden_size=architecture.width,
        num_attention_heads=architecture.heads,
        intermediate_size=architecture.ffn_width,
        position_embedding_type="rotary" if architecture.rotary else "absolute",
        max_position_embeddings=1026,
        emb_layer_norm_before=getattr(architecture, "embedding_norm", False),
        token_dropout=architecture.token_dropout,
        layer_norm_eps=architecture.layer_norm_eps,
    )
    found = EsmForMaskedLM(config).eval()
    result = found.load_state_dict(for_masked_lm(model.state_dict()), strict=False)
    for name in (*result.missing_keys, *result.unexpected_keys):
        assert any(part in name for part in BESIDE), name
    return found


def transformers_layers(model: nn.Module, tokens: list[Tensor]) -> list[list[Tensor]]:
    """transformers' rows of each sequence, for each layer."""
    found = []
    with torch.inference_mode():
        for t in tokens:
            mask = torch.ones_like(t[None])
            result = model(t[None], attention_mask=mask, output_hidden_states=True)
            # Of the last layer, some models give the rows before their norm here.
            rows = (*result.hidden_states[:-1], result.last_hidden_state)
            found.append([layer[0] for layer in rows])
    return [list(layer) for layer in zip(*found, strict=True)]
