"""The ESM-2 that train_demo.py trains: our encoder with ESM-2's language-model head.

Token dropout is off (`token_dropout` false in config.json): with it, an encoder must blank and
rescale masked inputs, and ours, which never sees a mask outside training, does not. So what is
trained here is to the letter what embeds later, and transformers, told by the same flag, agrees.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.esm2 import Esm2, Esm2Layer
from seqembed.models.encoders.tokenization import ESM2_ALPHABET as ALPHABET
from seqembed.models.encoders.tokenization import Esm2Tokenizer
from seqembed.models.families import Esm2Architecture
from seqembed.models.weights.build import build_model, read_checkpoint
from seqembed.models.weights.esm2 import HUGGING_FACE

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
        "mask_token_id": ALPHABET.index("<mask>"),
        "max_position_embeddings": 1026,
        "model_type": "esm",
        "num_attention_heads": architecture.heads,
        "num_hidden_layers": architecture.layers,
        "pad_token_id": ALPHABET.index("<pad>"),
        "position_embedding_type": "rotary",
        "token_dropout": architecture.token_dropout,
        "vocab_size": len(ALPHABET),
    }


class LanguageModelHead(nn.Module):
    """ESM-2's head: dense, GELU, LayerNorm, then the embedding's own weights, and a bias."""

    def __init__(self, architecture: Esm2Architecture) -> None:
        super().__init__()
        self.dense = nn.Linear(architecture.width, architecture.width)
        self.layer_norm = nn.LayerNorm(architecture.width, eps=architecture.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(len(ALPHABET)))

    def forward(self, rows: Tensor, embedding: Tensor) -> Tensor:
        """rows (n, width), embedding (tokens, width) -> logits (n, tokens)."""
        hidden = self.layer_norm(functional.gelu(self.dense(rows)))
        return functional.linear(hidden, embedding, self.bias)


class DemoEsm2(nn.Module):
    """The masked language model; a token's id is its place in ESM-2's alphabet."""

    mask_token = ALPHABET.index("<mask>")
    # What may be masked: every residue, and no special token.
    maskable = np.array([t for t, name in enumerate(ALPHABET) if len(name) == 1])
    # What a masked residue may be replaced by: one of the twenty amino acids.
    replacements = np.array([ALPHABET.index(letter) for letter in AMINO_ACIDS])

    def __init__(self, architecture: Esm2Architecture = ARCHITECTURE) -> None:
        super().__init__()
        self.encoder = Esm2(architecture, architecture.layers)
        self.lm_head = LanguageModelHead(architecture)
        self._initialise(architecture)

    @torch.no_grad()
    def _initialise(self, architecture: Esm2Architecture) -> None:
        """Small embeddings, as they decode too; a residual stream that does not grow with depth."""
        nn.init.normal_(self.encoder.embedding.weight, std=EMBEDDING_SPREAD)
        for layer in self.encoder.layers:
            assert isinstance(layer, Esm2Layer)
            layer.qkv.weight[: architecture.width] *= architecture.head_dim**-0.5
            for linear in (layer.out, layer.fc2):
                linear.weight *= (2 * architecture.layers) ** -0.5

    @staticmethod
    def encode(residues: bytes) -> NDArray[np.int64]:
        """Token ids of a whole sequence, its special tokens included."""
        return Esm2Tokenizer().encode(residues)

    def forward(self, tokens: Tensor, cu_seqlens: Tensor, chosen: Tensor) -> Tensor:
        """Logits of the `chosen` places of a packed batch, (n, tokens)."""
        packing = Packing.of(cu_seqlens.diff().tolist())
        rows = self.encoder(tokens, packing)[chosen]
        logits: Tensor = self.lm_head(rows, self.encoder.embedding.weight)
        return logits

    @classmethod
    def load(cls, folder: Path) -> DemoEsm2:
        """What save wrote, its encoder read as the workflow reads it."""
        checkpoint = read_checkpoint(folder)
        model = cls(checkpoint.architecture)
        model.encoder = build_model(checkpoint, checkpoint.architecture.layers)
        model.lm_head.load_state_dict(
            {
                name.removeprefix("lm_head."): held.read()
                for name, held in checkpoint.state.items()
                if name.startswith("lm_head.")
            }
        )
        return model

    def save(self, folder: Path) -> None:
        """Write the folder that EsmForMaskedLM.save_pretrained would write, and vocab.txt."""
        folder.mkdir(parents=True, exist_ok=True)
        config = json.dumps(config_of(self.encoder.architecture), indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(config, encoding="utf-8")
        (folder / "vocab.txt").write_text("\n".join(ALPHABET) + "\n", encoding="utf-8")
        state = {f"{PREFIX}.{name}": tensor for name, tensor in encoder_state(self.encoder).items()}
        state |= {f"lm_head.{name}": tensor for name, tensor in self.lm_head.state_dict().items()}
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def encoder_state(encoder: Esm2) -> dict[str, Tensor]:
    """The encoder's weights under Hugging Face's names; what esm2_weights reads, undone."""
    architecture, naming = encoder.architecture, HUGGING_FACE
    state = {
        f"{naming.embedding}.weight": encoder.embedding.weight.detach(),
        "rotary_embeddings.inv_freq": encoder.inv_freq,
        # transformers builds a contact head into every encoder. This one is blank.
        "contact_head.regression.weight": torch.zeros(1, architecture.layers * architecture.heads),
        "contact_head.regression.bias": torch.zeros(1),
    }
    for kind, tensor in encoder.final_norm.state_dict().items():
        state[f"{naming.final_norm}.{kind}"] = tensor
    for number, layer in enumerate(encoder.layers):
        for name, tensor in layer.state_dict().items():
            for part, own in unfuse(name, tensor, architecture.head_dim).items():
                part, kind = part.split(".")
                state[f"{naming.layer}.{number}.{naming.parts[part]}.{kind}"] = own
    return state


def unfuse(name: str, tensor: Tensor, head_dim: int) -> dict[str, Tensor]:
    """A layer's weight by its name; qkv's as query, key and value, the query not scaled."""
    part, kind = name.split(".")
    if part != "qkv":
        return {name: tensor}
    q, k, v = tensor.chunk(3)
    return {f"q.{kind}": q / head_dim**-0.5, f"k.{kind}": k, f"v.{kind}": v}
