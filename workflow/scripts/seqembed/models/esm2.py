"""ESM-2 as an encoder of packed batches: the last layer's rows, and nothing else.

The architecture is that of fair-esm 2.0.0 (esm/model/esm2.py, esm/modules.py,
esm/rotary_embedding.py; Lin et al. 2023, doi:10.1126/science.ade2574), without its language
model and contact heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from seqembed.errors import ModelError
from seqembed.fasta import VOCABULARY
from seqembed.models.attention import choose_attention

# fair-esm's Alphabet.from_architecture("ESM-1b"); a token's id is its place in this list.
ALPHABET = (
    "<cls>",
    "<pad>",
    "<eos>",
    "<unk>",
    *VOCABULARY.decode("ascii"),
    "<null_1>",
    "<mask>",
)
BOS, EOS = ALPHABET.index("<cls>"), ALPHABET.index("<eos>")
# Residues: ESM-2 was trained on crops of 1,024 tokens, BOS and EOS included.
MAX_LENGTH = 1022
ROTARY_BASE = 10000.0
# fair-esm scales embeddings by (1 - trained mask ratio) / (1 - observed); we never mask.
TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8
UNKNOWN = -1


def _residue_table() -> NDArray[np.int64]:
    """Byte -> token id, shape (256,), int64; UNKNOWN where the alphabet has no such letter."""
    table = np.full(256, UNKNOWN, dtype=np.int64)
    for token, name in enumerate(ALPHABET):
        if len(name) == 1:
            table[ord(name)] = token
    return table


RESIDUE_TOKENS = _residue_table()


def encode_residues(residues: bytes) -> NDArray[np.int64]:
    """Token ids of n residues between BOS and EOS, shape (n + 2,), int64."""
    tokens = np.empty(len(residues) + 2, dtype=np.int64)
    tokens[0], tokens[-1] = BOS, EOS
    tokens[1:-1] = RESIDUE_TOKENS[np.frombuffer(residues, dtype=np.uint8)]
    unknown = np.flatnonzero(tokens == UNKNOWN)
    if unknown.size:
        place = int(unknown[0])
        letter = residues[place - 1 : place].decode("latin-1")
        raise ModelError(f"residue {place}, {letter!r}, is not in the ESM-2 alphabet")
    return tokens


@dataclass(frozen=True)
class Esm2Architecture:
    """The sizes that tell one ESM-2 from another; raises ModelError if they do not fit."""

    layers: int
    width: int
    heads: int
    ffn_width: int
    token_dropout: bool = True
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "ffn_width"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ModelError(f"{name} must be a positive whole number, not {value!r}")
        if self.width % (2 * self.heads):
            raise ModelError(f"width {self.width} is not an even multiple of {self.heads} heads")
        if not isinstance(self.token_dropout, bool):
            raise ModelError(f"token_dropout must be true or false, not {self.token_dropout!r}")
        if not isinstance(self.layer_norm_eps, float) or not self.layer_norm_eps > 0:
            raise ModelError(f"layer_norm_eps must be positive, not {self.layer_norm_eps!r}")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


def default_inv_freq(head_dim: int) -> Tensor:
    """Rotary inverse frequencies, (head_dim / 2,) float32, as fair-esm computes them."""
    return 1.0 / (ROTARY_BASE ** (torch.arange(0, head_dim, 2).float() / head_dim))


def rotary_tables(inv_freq: Tensor, cu_seqlens: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """cos and sin, each (T, 1, head_dim) float32; positions restart at 0 in every sequence."""
    starts, lengths = cu_seqlens[:-1], cu_seqlens.diff()
    offsets = torch.repeat_interleave(starts, lengths, output_size=total)
    positions = torch.arange(total, device=inv_freq.device) - offsets
    angles = torch.outer(positions.to(inv_freq.dtype), inv_freq)
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (T, heads, head_dim) by halves; computed in float32, returned in x's dtype."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * cos + turned * sin).to(x.dtype)


class Esm2Layer(nn.Module):
    """One pre-LayerNorm transformer layer."""

    def __init__(self, architecture: Esm2Architecture) -> None:
        super().__init__()
        width, eps = architecture.width, architecture.layer_norm_eps
        self.heads, self.head_dim = architecture.heads, architecture.head_dim
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, architecture.ffn_width)
        self.fc2 = nn.Linear(architecture.ffn_width, width)

    def forward(self, x: Tensor, cu_seqlens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(T, width) -> (T, width), in x's dtype; cos and sin come from rotary_tables."""
        qkv = self.qkv(self.attention_norm(x)).view(x.shape[0], 3, self.heads, self.head_dim)
        q, k, v = qkv.unbind(1)
        attend = choose_attention(x.device, x.dtype)
        attended = attend(rotate(q, cos, sin), rotate(k, cos, sin), v, cu_seqlens)
        x = x + self.out(attended.reshape(x.shape))
        # functional.gelu is the exact, erf form.
        hidden: Tensor = self.fc2(functional.gelu(self.fc1(self.ffn_norm(x))))
        return x + hidden


class Esm2(nn.Module):
    """ESM-2's encoder over a packed batch."""

    inv_freq: Tensor

    def __init__(self, architecture: Esm2Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.embedding = nn.Embedding(len(ALPHABET), architecture.width)
        self.register_buffer("inv_freq", default_inv_freq(architecture.head_dim))
        self.layers = nn.ModuleList(Esm2Layer(architecture) for _ in range(architecture.layers))
        self.final_norm = nn.LayerNorm(architecture.width, eps=architecture.layer_norm_eps)

    def forward(self, tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Last layer after the final LayerNorm.

        tokens: (T,) int64, BOS and EOS included; cu_seqlens: (B + 1,) int32, from 0 to T.
        Returns (T, width) in the weights' dtype.
        """
        x = self.embedding(tokens)
        if self.architecture.token_dropout:
            x = x * TOKEN_DROPOUT_SCALE
        cos, sin = rotary_tables(self.inv_freq, cu_seqlens, tokens.shape[0])
        for layer in self.layers:
            x = layer(x, cu_seqlens, cos, sin)
        rows: Tensor = self.final_norm(x)
        return rows

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Esm2:
        # .half() would round the frequencies, and far positions would turn by wrong angles.
        exact = self.inv_freq
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.inv_freq = exact.to(self.inv_freq.device)
        return self


PREFIXES = ("esm.", "encoder.sentence_encoder.")
# transformers 5 saves some LayerNorms under the names of its TensorFlow days.
LEGACY_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
HF_LAYER = {
    "attention_norm": "attention.LayerNorm",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "out": "attention.output.dense",
    "ffn_norm": "LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
FAIR_LAYER = {
    "attention_norm": "self_attn_layer_norm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "ffn_norm": "final_layer_norm",
    "fc1": "fc1",
    "fc2": "fc2",
}


@dataclass(frozen=True)
class Naming:
    """Where one family of checkpoints keeps the weights."""

    embedding: str
    layer: str
    parts: Mapping[str, str]
    final_norm: str


HUGGING_FACE = Naming(
    "embeddings.word_embeddings", "encoder.layer", HF_LAYER, "encoder.emb_layer_norm_after"
)
FAIR_ESM = Naming("embed_tokens", "layers", FAIR_LAYER, "emb_layer_norm_after")


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, named as if the encoder were the whole model, in today's words."""
    plain = {}
    for name, tensor in state.items():
        prefix = next((p for p in PREFIXES if name.startswith(p)), "")
        name = name.removeprefix(prefix)
        for legacy, today in LEGACY_NAMES.items():
            name = name.replace(legacy, today)
        plain[name] = tensor
    return plain


def _take(state: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """One weight as contiguous float32, or a ModelError that names it."""
    if name not in state:
        raise ModelError(f"the checkpoint lacks the weight {name!r}")
    tensor = state[name]
    if tuple(tensor.shape) != shape:
        raise ModelError(f"weight {name!r} has shape {tuple(tensor.shape)}, expected {shape}")
    # Other strides would choose other kernels, and other last bits.
    return tensor.float().contiguous()


def _layer_weights(
    state: Mapping[str, Tensor], prefix: str, parts: Mapping[str, str], layer: Esm2Layer
) -> dict[str, Tensor]:
    """One layer's state: query, key and value fused, the query scaled by head_dim ** -0.5."""
    weights = {}
    for name, own in layer.state_dict().items():
        part, kind = name.split(".")
        if part != "qkv":
            weights[name] = _take(state, f"{prefix}.{parts[part]}.{kind}", tuple(own.shape))
            continue
        shape = (own.shape[0] // 3, *own.shape[1:])
        q, k, v = (_take(state, f"{prefix}.{parts[p]}.{kind}", shape) for p in "qkv")
        weights[name] = torch.cat((q * layer.head_dim**-0.5, k, v))
    return weights


def _stored_inv_freq(state: Mapping[str, Tensor], head_dim: int) -> Tensor:
    """The checkpoint's rotary frequencies, (head_dim / 2,) float32; fair-esm's if it has none."""
    names = [name for name in state if name.endswith(".inv_freq")]
    if not names:
        return default_inv_freq(head_dim)
    first = _take(state, names[0], (head_dim // 2,))
    for name in names[1:]:
        if not torch.equal(_take(state, name, (head_dim // 2,)), first):
            raise ModelError(f"{names[0]!r} and {name!r} differ; all layers must share one")
    return first


def load_state(architecture: Esm2Architecture, state: Mapping[str, Tensor]) -> Esm2:
    """An Esm2 in eval mode, float32, from Hugging Face's or fair-esm's names.

    Weights of heads and poolers are left out; a missing or misshapen one is a ModelError.
    """
    state = _plain_names(state)
    naming = HUGGING_FACE if f"{HUGGING_FACE.embedding}.weight" in state else FAIR_ESM
    with torch.device("meta"):
        model = Esm2(architecture)
    width = architecture.width
    weights = {
        "embedding.weight": _take(state, f"{naming.embedding}.weight", (len(ALPHABET), width)),
        "inv_freq": _stored_inv_freq(state, architecture.head_dim),
    }
    for kind in ("weight", "bias"):
        weights[f"final_norm.{kind}"] = _take(state, f"{naming.final_norm}.{kind}", (width,))
    for number, layer in enumerate(model.layers):
        assert isinstance(layer, Esm2Layer)
        loaded = _layer_weights(state, f"{naming.layer}.{number}", naming.parts, layer)
        weights |= {f"layers.{number}.{name}": tensor for name, tensor in loaded.items()}
    if f"{naming.layer}.{architecture.layers}.{naming.parts['fc1']}.weight" in state:
        raise ModelError(f"the checkpoint has more than {architecture.layers} layers")
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()
