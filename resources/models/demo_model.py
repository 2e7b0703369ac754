"""What the demonstration models have in common: an encoder of ours and a language model's head."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import read_checkpoint

Tokens = NDArray[np.int64]


class LanguageModelHead(nn.Module):
    """Dense, GELU, LayerNorm, then the embedding's own weights, and a bias."""

    def __init__(self, width: int, tokens: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width, eps=eps)
        self.bias = nn.Parameter(torch.zeros(tokens))

    def forward(self, rows: Tensor, embedding: Tensor) -> Tensor:
        """rows (n, width), embedding (tokens, width) -> logits (n, tokens)."""
        hidden = self.layer_norm(functional.gelu(self.dense(rows)))
        return functional.linear(hidden, embedding, self.bias)


class DemoModel(nn.Module, ABC):
    """A masked language model; a family's own module has its tokens and its names.

    mask_token: its id. maskable: the tokens that may be masked. replacements: those that a masked
    one may be replaced by. related: so many residues in a row, shared with a sequence trained on,
    make a sequence its relative. head_names: the names in a checkpoint, by ours, of the head.
    """

    mask_token: ClassVar[int]
    maskable: ClassVar[Tokens]
    replacements: ClassVar[Tokens]
    related: ClassVar[int] = 12
    head_names: ClassVar[Mapping[str, str]]

    def __init__(self, encoder: Encoder, tokens: int) -> None:
        super().__init__()
        self.encoder = encoder
        sizes = encoder.architecture
        self.head = LanguageModelHead(sizes.width, tokens, sizes.layer_norm_eps)

    @classmethod
    @abstractmethod
    def start(cls, sequences: Iterable[bytes]) -> Self:
        """A model to be trained on these sequences."""

    @abstractmethod
    def encode(self, residues: bytes) -> Tokens:
        """Token ids of a whole sequence, its special tokens included."""

    @abstractmethod
    def save_settings(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer's file, and return the content of config.json."""

    @abstractmethod
    def encoder_state(self) -> dict[str, Tensor]:
        """The encoder's weights under the authors' names; what loading does, undone."""

    def forward(self, tokens: Tensor, cu_seqlens: Tensor, chosen: Tensor) -> Tensor:
        """Logits of the `chosen` places of a packed batch, (n, tokens)."""
        packing = Packing.of(cu_seqlens.diff().tolist())
        rows = self.encoder(tokens, packing)[chosen]
        logits: Tensor = self.head(rows, self.encoder.embedding.weight)
        return logits

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder: config.json, the tokenizer's file and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        config = json.dumps(self.save_settings(folder), indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(config, encoding="utf-8")
        head = self.head.state_dict()
        state = self.encoder_state() | {name: head[own] for own, name in self.head_names.items()}
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    def restore(self, folder: Path) -> Self:
        """Take the weights that save wrote, the encoder read as the workflow reads it."""
        checkpoint = read_checkpoint(folder)
        self.encoder = build_model(checkpoint, checkpoint.architecture.layers)
        head = {own: checkpoint.state[name].read() for own, name in self.head_names.items()}
        self.head.load_state_dict(head)
        return self.eval()

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """The model that save wrote."""
