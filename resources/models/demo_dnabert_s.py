"""The DNABERT-S that train_demo.py trains: our encoder, its own tokens, BERT's head.

Of each genome the last tenth is held out, of both strands; the rest is cut into pieces, and what
the tokens are is learned from those alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.nn import functional

from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.dnabert_s import DnabertLayer, DnabertS
from seqembed.models.families import DnabertArchitecture
from seqembed.models.weights.build import build_model, read_checkpoint
from seqembed.models.weights.dnabert_s import LAYER, PARTS, TOKEN_TYPES
from seqembed.models.weights.tensors import State
from seqembed.storage.digests import digest

# In the order of their ids, as in DNABERT-S's tokenizer.json.
SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
# Few tokens, so that every pair of neighbours is met often in a short training.
VOCABULARY = 64
# Twelve heads, as DNABERT-S has: no power of two, so that ALiBi's slopes come from both halves of
# its rule. Four of the slopes are steep enough, 1/4 or more, to tell a token's neighbours from all
# that is farther away. Of six heads only two are, and a model of those stays at the frequencies for
# millions of tokens.
ARCHITECTURE = DnabertArchitecture(
    layers=3, width=96, heads=12, ffn_width=192, vocabulary=VOCABULARY
)
# Wide, so that a step moves no token far; the head's norm begins small, for logits near 0.
EMBEDDING_SPREAD, HEAD_NORM = 0.15, 0.2
# What the authors put before the encoder's names, and the head's, where a head stands beside it.
PREFIX, HEAD = "bert", "cls.predictions"
HEAD_PARTS = {
    "dense.weight": "transform.dense.weight",
    "dense.bias": "transform.dense.bias",
    "layer_norm.weight": "transform.LayerNorm.weight",
    "layer_norm.bias": "transform.LayerNorm.bias",
    "bias": "decoder.bias",
}

HELD_OUT = 0.1  # of each genome, at its end
PIECES = (250, 1250)  # lengths in bp, drawn anew for each piece
TOKENIZED = 2000  # pieces, at most, that the tokens are learned from
SEED = 20260801
COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


def hold_out(genomes: dict[bytes, bytes]) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Pieces to train on, of both strands, and held-out ones, of the forward strand; by digest."""
    rng = np.random.default_rng(SEED)
    trained: list[bytes] = []
    held_out: list[bytes] = []
    for genome in genomes.values():
        border = len(genome) - int(HELD_OUT * len(genome))
        trained += cut(genome[:border], rng) + cut(reverse_complement(genome[:border]), rng)
        held_out += cut(genome[border:], rng)
    return {digest(p): p for p in trained}, {digest(p): p for p in held_out}


def cut(strand: bytes, rng: np.random.Generator) -> list[bytes]:
    """The whole strand in pieces of random lengths; only the last may be shorter."""
    pieces, start = [], 0
    while start < len(strand):
        stop = start + int(rng.integers(*PIECES))
        pieces.append(strand[start:stop])
        start = stop
    return pieces


def reverse_complement(strand: bytes) -> bytes:
    return strand.translate(COMPLEMENT)[::-1]


def learn_tokens(pieces: Iterable[bytes]) -> Tokenizer:
    """Byte-pair encoding as DNABERT-S has it, of some pieces spread evenly over all."""
    pieces = list(pieces)
    some = pieces[:: -(-len(pieces) // TOKENIZED)]
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=list("ACGT"),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece.decode("ascii") for piece in some), trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, SPECIALS.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def config_of(architecture: DnabertArchitecture) -> dict[str, Any]:
    """config.json, with the keys of the authors' that the model is made of."""
    return {
        "alibi_starting_size": 512,
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout": None,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": architecture.width,
        "initializer_range": 0.02,
        "intermediate_size": architecture.ffn_width,
        "layer_norm_eps": architecture.layer_norm_eps,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": architecture.heads,
        "num_hidden_layers": architecture.layers,
        "pad_token_id": SPECIALS.index("[PAD]"),
        # As the authors' file says, though ALiBi is what the model has.
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "type_vocab_size": TOKEN_TYPES,
        "use_cache": True,
        "vocab_size": architecture.vocabulary,
    }


class LanguageModelHead(nn.Module):
    """BERT's head: dense, GELU, LayerNorm, then the embedding's own weights, and a bias."""

    def __init__(self, architecture: DnabertArchitecture) -> None:
        super().__init__()
        self.dense = nn.Linear(architecture.width, architecture.width)
        self.layer_norm = nn.LayerNorm(architecture.width, eps=architecture.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(architecture.vocabulary))

    def forward(self, rows: Tensor, embedding: Tensor) -> Tensor:
        """rows (n, width), embedding (tokens, width) -> logits (n, tokens)."""
        hidden = self.layer_norm(functional.gelu(self.dense(rows)))
        return functional.linear(hidden, embedding, self.bias)


class DemoDnabertS(nn.Module):
    """The masked language model, and its tokens."""

    hold_out = staticmethod(hold_out)
    # Base pairs in a row that two sequences share by chance once in 4 ** 32 places.
    related = 32
    mask_token = SPECIALS.index("[MASK]")
    # What may be masked, and what a masked token may be replaced by: any but the specials.
    maskable = np.arange(len(SPECIALS), VOCABULARY)
    replacements = maskable

    def __init__(self, tokenizer: Tokenizer, architecture: DnabertArchitecture = ARCHITECTURE):
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = DnabertS(architecture, architecture.layers)
        self.head = LanguageModelHead(architecture)
        self._initialise(architecture)

    @torch.no_grad()
    def _initialise(self, architecture: DnabertArchitecture) -> None:
        """Logits near 0, as the embeddings decode too; a query scaled as our encoder has it."""
        nn.init.normal_(self.encoder.embedding.weight, std=EMBEDDING_SPREAD)
        nn.init.constant_(self.head.layer_norm.weight, HEAD_NORM)
        for layer in self.encoder.layers:
            assert isinstance(layer, DnabertLayer)
            layer.qkv.weight[: architecture.width] *= architecture.head_dim**-0.5

    @classmethod
    def start(cls, pieces: Iterable[bytes]) -> DemoDnabertS:
        """A model that knows the tokens of what it is to be trained on, and how often each is."""
        pieces = list(pieces)
        model = cls(learn_tokens(pieces))
        tokens = np.concatenate([model.encode(piece) for piece in pieces])
        counts = np.ones(VOCABULARY)
        counts[model.maskable] += np.bincount(tokens, minlength=VOCABULARY)[model.maskable]
        shares = torch.from_numpy(counts / counts.sum())
        model.head.bias.data = shares.log().float()
        return model

    def encode(self, residues: bytes) -> NDArray[np.int64]:
        """Token ids of a whole piece, between [CLS] and [SEP]."""
        return np.array(self.tokenizer.encode(residues.decode("ascii")).ids, np.int64)

    def forward(self, tokens: Tensor, cu_seqlens: Tensor, chosen: Tensor) -> Tensor:
        """Logits of the `chosen` places of a packed batch, (n, tokens)."""
        packing = Packing.of(cu_seqlens.diff().tolist())
        rows = self.encoder(tokens, packing)[chosen]
        logits: Tensor = self.head(rows, self.encoder.embedding.weight)
        return logits

    @classmethod
    def load(cls, folder: Path) -> DemoDnabertS:
        """What save wrote, its encoder read as the workflow reads it."""
        checkpoint = read_checkpoint(folder)
        assert isinstance(checkpoint.architecture, DnabertArchitecture)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        model = cls(tokenizer, checkpoint.architecture)
        encoder = build_model(checkpoint, checkpoint.architecture.layers)
        assert isinstance(encoder, DnabertS)
        model.encoder = encoder
        model.head.load_state_dict(head_state(checkpoint.state))
        return model.eval()

    def save(self, folder: Path) -> None:
        """Write config.json, tokenizer.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        config = json.dumps(config_of(self.encoder.architecture), indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(config, encoding="utf-8")
        self.tokenizer.save(str(folder / "tokenizer.json"))
        state = {f"{PREFIX}.{name}": tensor for name, tensor in encoder_state(self.encoder).items()}
        for own, name in HEAD_PARTS.items():
            state[f"{HEAD}.{name}"] = self.head.state_dict()[own]
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def head_state(state: State) -> dict[str, Tensor]:
    """The head's weights of a checkpoint, under our own names."""
    return {own: state[f"{HEAD}.{name}"].read() for own, name in HEAD_PARTS.items()}


def encoder_state(encoder: DnabertS) -> dict[str, Tensor]:
    """The encoder's weights under the authors' names; what loading does, undone.

    Our embedding is theirs of words plus that of token type 0, so the types' is all zeros here.
    """
    width = encoder.architecture.width
    state = {
        "embeddings.word_embeddings.weight": encoder.embedding.weight.detach(),
        "embeddings.token_type_embeddings.weight": torch.zeros(TOKEN_TYPES, width),
    }
    for kind, tensor in encoder.embedding_norm.state_dict().items():
        state[f"embeddings.LayerNorm.{kind}"] = tensor
    for number, layer in enumerate(encoder.layers):
        for own, tensor in layer.state_dict().items():
            part, kind = own.split(".")
            if part == "qkv":
                tensor = unscale_query(tensor, encoder.architecture)
            state[f"{LAYER}.{number}.{PARTS[part]}.{kind}"] = tensor
    return state


def unscale_query(qkv: Tensor, architecture: DnabertArchitecture) -> Tensor:
    """A fused weight or bias as the authors' attention wants it, which scales by itself."""
    width, scale = architecture.width, architecture.head_dim**-0.5
    return torch.cat((qkv[:width] / scale, qkv[width:]))
