"""The DNABERT-S that train_demo.py trains: our encoder, its own tokens, BERT's head.

Of each genome the last tenth is held out, of both strands; the rest is cut into pieces, and what
the tokens are is learned from those alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_model import DemoModel, Tokens
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn

from seqembed.models.architectures import DnabertArchitecture
from seqembed.models.encoders.dnabert_s import DnabertLayer, DnabertS
from seqembed.models.weights.dnabert_s import LAYER, PARTS, TOKEN_TYPES
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
# What the authors put before the encoder's names, where a head stands beside it.
PREFIX = "bert"

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


class DemoDnabertS(DemoModel):
    """The masked language model, and its tokens."""

    hold_out = staticmethod(hold_out)
    # Two sequences share so many base pairs in a row by chance once in 4 ** 32 places.
    related = 32
    mask_token = SPECIALS.index("[MASK]")
    # What may be masked, and what a masked token may be replaced by: any but the specials.
    maskable = np.arange(len(SPECIALS), VOCABULARY)
    replacements = maskable

    head_names = {
        "dense.weight": "cls.predictions.transform.dense.weight",
        "dense.bias": "cls.predictions.transform.dense.bias",
        "layer_norm.weight": "cls.predictions.transform.LayerNorm.weight",
        "layer_norm.bias": "cls.predictions.transform.LayerNorm.bias",
        "bias": "cls.predictions.decoder.bias",
    }

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(DnabertS(ARCHITECTURE, ARCHITECTURE.layers), VOCABULARY)
        self.tokenizer = tokenizer
        self._initialise(ARCHITECTURE)

    @classmethod
    def load(cls, folder: Path) -> DemoDnabertS:
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json"))).restore(folder)

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

    def encode(self, residues: bytes) -> Tokens:
        return np.array(self.tokenizer.encode(residues.decode("ascii")).ids, np.int64)

    def save_settings(self, folder: Path) -> dict[str, Any]:
        self.tokenizer.save(str(folder / "tokenizer.json"))
        return config_of(self.encoder.architecture)

    def encoder_state(self) -> dict[str, Tensor]:
        # Our embedding is theirs of words plus that of token type 0: the types' is all zeros here.
        encoder, width = self.encoder, self.encoder.architecture.width
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
        return {f"{PREFIX}.{name}": tensor for name, tensor in state.items()}


def unscale_query(qkv: Tensor, architecture: DnabertArchitecture) -> Tensor:
    """A fused weight or bias as the authors' attention wants it, which scales by itself."""
    width, scale = architecture.width, architecture.head_dim**-0.5
    return torch.cat((qkv[:width] / scale, qkv[width:]))
