"""Random models and their rows, computed by other people's code or by the plain formulas."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.encoders.tokenization import BpeTokenizer, ResidueTokenizer, Tokenizer
from seqembed.models.vocabularies import ESM
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import read_checkpoint

DNABERT_FILES = Path(__file__).parents[1] / "data" / "dnabert_s"
# Whole models and longer sequences only on demand: minutes.
WHOLE = os.environ.get("SEQEMBED_WHOLE_SHAPES") == "1"
RESIDUES = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC" * 4 + b"XBZUO", dtype=np.uint8)


def random_proteins(lengths: list[int], seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [b"M" + rng.choice(RESIDUES, size=length - 1).tobytes() for length in lengths]


def random_dna(lengths: list[int], seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [
        rng.choice(list(b"ACGT" * 25 + b"N"), size=n).astype(np.uint8).tobytes() for n in lengths
    ]


def random_tokens(lengths: list[int], seed: int = 0) -> list[Tensor]:
    """DNABERT's tokens of a [CLS], so many others, and a [SEP]."""
    rng = np.random.default_rng(seed)
    inner = (rng.integers(5, 4096, size=length) for length in lengths)
    return [torch.tensor([1, *tokens, 2]) for tokens in inner]


def encode(sequences: list[bytes], tokenizer: Tokenizer | None = None) -> list[Tensor]:
    tokenizer = tokenizer or ResidueTokenizer(ESM)
    return [torch.from_numpy(tokenizer.encode(sequence)) for sequence in sequences]


def embed(model: Encoder, tokens: list[Tensor]) -> list[Tensor]:
    """Each sequence's rows, (n, width), from one packed batch."""
    lengths = [len(t) for t in tokens]
    with torch.inference_mode():
        return list(model(torch.cat(tokens), Packing.of(lengths)).split(lengths))


def embed_layers(model: Encoder, tokens: list[Tensor]) -> list[list[Tensor]]:
    """The rows after each of the model's layers but the last, from one pass, then the last's."""
    seen: list[list[Tensor]] = []
    lengths = [len(t) for t in tokens]

    def keep(_: nn.Module, __: Any, out: Tensor | tuple[Tensor, Tensor]) -> None:
        rows = out if isinstance(out, Tensor) else out[0]
        seen.append(list(rows.clone().split(lengths)))

    hooks = [layer.register_forward_hook(keep) for layer in model.layers[:-1]]
    last = embed(model, tokens)
    for hook in hooks:
        hook.remove()
    return [*seen, last]


def load(source: Path, layer: int | None = None) -> Encoder:
    """The model up to a layer, its last if none is given."""
    checkpoint = read_checkpoint(source)
    return build_model(checkpoint, checkpoint.architecture.layers if layer is None else layer)


def every_layer(source: Path, tokens: list[Tensor]) -> list[list[Tensor]]:
    return [embed(load(source, 0), tokens), *embed_layers(load(source), tokens)]


def assert_close(
    ours: list[Tensor], theirs: list[Tensor], scaled: bool = False, what: str = "rows"
) -> tuple[float, float]:
    """The bound of the design; returns how far they are apart: max difference, min cosine.

    scaled: differences are divided by the root mean square of their row, where that is over 1.
    what: for the message.
    """
    worst, cosine = 0.0, 1.0
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        similar = torch.cosine_similarity(a.double(), b.double(), dim=-1).min().item()
        size = b.square().mean(-1, keepdim=True).sqrt().clamp(min=1) if scaled else 1
        far = ((a - b).abs() / size).max().item()
        worst, cosine = max(worst, far), min(cosine, similar)
    assert worst <= 1e-4 and cosine >= 0.99999, (what, worst, cosine)
    return worst, cosine


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """The same to the bit."""
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def randomise(model: nn.Module) -> nn.Module:
    """Weights large enough for attention to be far from flat, and biases far from zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 1.5 * parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.2
            parameter.copy_(noise * scale + (parameter if parameter.dim() == 1 else 0))
    return model.eval()


def rename(state: dict[str, Tensor], words: dict[str, str]) -> dict[str, Tensor]:
    """The tensors under names in which each of `words` is replaced, one after the other."""
    renamed = {}
    for name, tensor in state.items():
        for word, other in words.items():
            name = name.replace(word, other)
        renamed[name] = tensor
    return renamed


def dnabert_state(layers: int, width: int, ffn_width: int) -> dict[str, Tensor]:
    """Random weights under the names of the authors' checkpoints, which have no prefix."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (4096, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for number in range(layers):
        for name, shape in {
            "attention.self.Wqkv.weight": (3 * width, width),
            "attention.self.Wqkv.bias": (3 * width,),
            "attention.output.dense.weight": (width, width),
            "attention.output.dense.bias": (width,),
            "attention.output.LayerNorm.weight": (width,),
            "attention.output.LayerNorm.bias": (width,),
            "mlp.gated_layers.weight": (2 * ffn_width, width),
            "mlp.wo.weight": (width, ffn_width),
            "mlp.wo.bias": (width,),
            "mlp.layernorm.weight": (width,),
            "mlp.layernorm.bias": (width,),
        }.items():
            shapes[f"encoder.layer.{number}.{name}"] = shape
    generator = torch.Generator().manual_seed(2)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        norm = "norm.weight" in name.lower()
        state[name] = noise * (1.5 * shape[-1] ** -0.5 if len(shape) > 1 else 0.2) + norm
    return state


def dnabert_config(layers: int, width: int, heads: int, ffn_width: int) -> dict[str, Any]:
    """The authors' config.json, of other sizes."""
    return json.loads((DNABERT_FILES / "config.json").read_text()) | {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": ffn_width,
    }


def dnabert_folder(folder: Path, size: tuple[int, int, int, int], pickled: bool = False) -> Path:
    """A Hugging Face folder of random weights; size: layers, width, heads, ffn_width."""
    layers, width, _, ffn_width = size
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dnabert_config(*size)))
    shutil.copy(DNABERT_FILES / "tokenizer.json", folder)
    state = dnabert_state(layers, width, ffn_width)
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
    return folder


def dnabert_tokenizer() -> BpeTokenizer:
    return BpeTokenizer(DNABERT_FILES / "tokenizer.json")


def plain_slopes(heads: int) -> list[float]:
    """As the ALiBi paper's code has it, by recursion."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**i for i in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return plain_slopes(power) + plain_slopes(2 * power)[0::2][: heads - power]


def plain_attention(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None) -> Tensor:
    """One sequence, (n, heads, head_dim); slopes (heads,) or None. The query is scaled."""
    scores = torch.einsum("ihd,jhd->hij", q, k)
    if slopes is not None:
        place = torch.arange(q.shape[0])
        scores = scores - slopes[:, None, None] * (place[:, None] - place).abs()
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v)


def plain_dnabert(state: dict[str, Tensor], heads: int, tokens: Tensor) -> list[Tensor]:
    """Every layer's rows of one sequence, the embedding's first: the formulas, term by term."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        scaled = (x - mean) / (variance + 1e-12).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    words = state["embeddings.word_embeddings.weight"][tokens]
    x = norm(words + state["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    n, width = x.shape
    rows = [x]
    while f"encoder.layer.{len(rows) - 1}.mlp.wo.weight" in state:
        name = f"encoder.layer.{len(rows) - 1}"
        at = f"{name}.attention"
        qkv = x @ state[f"{at}.self.Wqkv.weight"].T + state[f"{at}.self.Wqkv.bias"]
        q, k, v = (part.view(n, heads, width // heads) for part in qkv.split(width, dim=1))
        slopes = torch.tensor(plain_slopes(heads))
        mixed = plain_attention(q / math.sqrt(width // heads), k, v, slopes).reshape(n, width)
        mixed = mixed @ state[f"{at}.output.dense.weight"].T + state[f"{at}.output.dense.bias"]
        x = norm(mixed + x, f"{at}.output.LayerNorm")
        both = x @ state[f"{name}.mlp.gated_layers.weight"].T
        half = both.shape[1] // 2
        hidden = functional.gelu(both[:, :half]) * both[:, half:]
        hidden = hidden @ state[f"{name}.mlp.wo.weight"].T + state[f"{name}.mlp.wo.bias"]
        x = norm(hidden + x, f"{name}.mlp.layernorm")
        rows.append(x)
    return rows


def multimolecule_layers(
    state: dict[str, Tensor], heads: int, tokens: list[Tensor]
) -> list[list[Tensor]]:
    """Every layer's rows of each sequence by multimolecule's DnaBertSModel, embedding first."""
    from multimolecule import DnaBertSConfig, DnaBertSModel

    width = state["embeddings.LayerNorm.weight"].shape[0]
    config = DnaBertSConfig(
        vocab_size=4096,
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=sum(name.endswith("mlp.wo.weight") for name in state),
        intermediate_size=state["encoder.layer.0.mlp.wo.weight"].shape[1],
    )
    config._attn_implementation = "eager"
    model = DnaBertSModel(config, add_pooling_layer=False).eval()
    wanted = {name: torch.zeros(0) for name in model.state_dict()}
    words = {"LayerNorm": "layer_norm", "layernorm": "layer_norm", "gated_layers": "up_proj"}
    renamed = rename(state, words | {"mlp.wo": "mlp.down_proj"})
    for name in [name for name in renamed if "Wqkv" in name]:
        pieces = renamed.pop(name).split(width)
        for part, piece in zip(("query", "key", "value"), pieces, strict=True):
            renamed[name.replace("Wqkv", part)] = piece
    slopes = {name for name in wanted if "slopes" in name}
    missing = model.load_state_dict(renamed, strict=False)
    assert set(missing.missing_keys) <= slopes and not missing.unexpected_keys, missing
    with torch.inference_mode():
        results = [
            model(t[None], attention_mask=torch.ones_like(t[None]), output_hidden_states=True)
            for t in tokens
        ]
    count = config.num_hidden_layers + 1
    return [[r.hidden_states[layer][0] for r in results] for layer in range(count)]
