"""The ESM-2 that train_demo.py trains: our encoder with ESM-2's language-model head.

Token dropout is off (`token_dropout` false in config.json): with it, an encoder must blank and
rescale masked inputs, and ours, which never sees a mask outside training, does not. So what is
trained here is to the letter what embeds later, and transformers, told by the same flag, agrees.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_model import DemoModel, Tokens
from torch import Tensor, nn

from seqembed.models.architectures import Esm2Architecture
from seqembed.models.encoders.esm import EsmLayer
from seqembed.models.encoders.esm2 import Esm2
from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.vocabularies import ESM
from seqembed.models.weights.esm import HUGGING_FACE

ARCHITECTURE = Esm2Architecture(
    layers=6, width=128, heads=8, ffn_width=512, token_dropout=False, layer_norm_eps=1e-5
)
EMBEDDING_SPREAD = 0.05
AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"
# What Hugging Face puts before the encoder's names when a head stands beside it.
PREFIX = "esm"


def config_of(architecture: Esm2Architecture) -> dict[str, Any]:
    """config.json, as transformers reads it."""
    return {
        "architectures": ["EsmForMaskedLM"],
        "attention_probs_dropout_prob": 0.0,
        "dtype": "float32",
        "emb_layer_norm_before": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": architecture.width,
        "intermediate_size": architecture.ffn_width,
        "layer_norm_eps": architecture.layer_norm_eps,
        "mask_token_id": ESM.tokens.index("<mask>"),
        "max_position_embeddings": 1026,
        "model_type": "esm",
        "num_attention_heads": architecture.heads,
        "num_hidden_layers": architecture.layers,
        "pad_token_id": ESM.tokens.index("<pad>"),
        "position_embedding_type": "rotary",
        "token_dropout": architecture.token_dropout,
        "vocab_size": len(ESM.tokens),
    }


class DemoEsm2(DemoModel):
    """The masked language model; a token's id is its place in ESM-2's alphabet."""

    mask_token = ESM.tokens.index("<mask>")
    # What may be masked: every residue, and no special token.
    maskable = np.array([t for t, name in enumerate(ESM.tokens) if len(name) == 1])
    # What a masked residue may be replaced by: one of the twenty amino acids.
    replacements = np.array([ESM.tokens.index(letter) for letter in AMINO_ACIDS])

    head_names = {
        own: f"lm_head.{own}"
        for own in ("dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias", "bias")
    }

    def __init__(self, architecture: Esm2Architecture = ARCHITECTURE) -> None:
        super().__init__(Esm2(architecture, architecture.layers), len(ESM.tokens))
        self._initialise(architecture)

    @classmethod
    def start(cls, sequences: Iterable[bytes]) -> DemoEsm2:
        return cls()

    @classmethod
    def load(cls, folder: Path) -> DemoEsm2:
        return cls().restore(folder)

    @torch.no_grad()
    def _initialise(self, architecture: Esm2Architecture) -> None:
        """Small embeddings, as they decode too; a residual stream that does not grow with depth."""
        nn.init.normal_(self.encoder.embedding.weight, std=EMBEDDING_SPREAD)
        for layer in self.encoder.layers:
            assert isinstance(layer, EsmLayer)
            layer.qkv.weight[: architecture.width] *= architecture.head_dim**-0.5
            for linear in (layer.out, layer.fc2):
                linear.weight *= (2 * architecture.layers) ** -0.5

    @staticmethod
    def encode(residues: bytes) -> Tokens:
        return ResidueTokenizer(ESM).encode(residues)

    def save_settings(self, folder: Path) -> dict[str, Any]:
        (folder / "vocab.txt").write_text("\n".join(ESM.tokens) + "\n", encoding="utf-8")
        return config_of(self.encoder.architecture)

    def encoder_state(self) -> dict[str, Tensor]:
        encoder, architecture = self.encoder, self.encoder.architecture
        state = {
            f"{HUGGING_FACE.embedding}.weight": encoder.embedding.weight.detach(),
            "rotary_embeddings.inv_freq": encoder.inv_freq,
            # transformers builds a contact head into every encoder. This one is blank.
            "contact_head.regression.weight": torch.zeros(
                1, architecture.layers * architecture.heads
            ),
            "contact_head.regression.bias": torch.zeros(1),
        }
        for kind, tensor in encoder.final_norm.state_dict().items():
            state[f"{HUGGING_FACE.final_norm}.{kind}"] = tensor
        for number, layer in enumerate(encoder.layers):
            for name, tensor in layer.state_dict().items():
                for part, own in unfuse(name, tensor, architecture.head_dim).items():
                    part, kind = part.split(".")
                    state[f"{HUGGING_FACE.part(number, part)}.{kind}"] = own
        return {f"{PREFIX}.{name}": tensor for name, tensor in state.items()}


def unfuse(name: str, tensor: Tensor, head_dim: int) -> dict[str, Tensor]:
    """A layer's weight by its name; qkv's as query, key and value, the query not scaled."""
    part, kind = name.split(".")
    if part != "qkv":
        return {name: tensor}
    q, k, v = tensor.chunk(3)
    return {f"q.{kind}": q / head_dim**-0.5, f"k.{kind}": k, f"v.{kind}": v}
