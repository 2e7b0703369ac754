"""ESM C by its authors' formulas, and their two ways to name and join its weights.

After esm/layers/attention.py, blocks.py, rotary.py and transformer_stack.py of
https://github.com/Biohub/esm at commit b6b0e881, which are under the MIT licence.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from models_in_plain import plain_attention, rename
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import EsmcConfig, EsmcForMaskedLM

from seqembed.models.architectures import EsmcArchitecture

# config.json of biohub/ESMC-*, but for the sizes.
PUBLISHED = {
    "architectures": ["ESMCForMaskedLM"],
    "classifier_dropout": 0.1,
    "dtype": "float32",
    "initializer_range": 0.02,
    "mask_token_id": 32,
    "model_type": "esmc",
    "pad_token_id": 1,
    "tie_word_embeddings": False,
    "transformers_version": "4.57.6",
    "vocab_size": 64,
}
# transformers' names -> the authors', of the parts that are not joined.
AUTHORS = {
    "embed_tokens": "embed",
    "layers.": "transformer.blocks.",
    "self_attn.o_proj": "attn.out_proj",
    "self_attn.q_norm": "attn.q_ln",
    "self_attn.k_norm": "attn.k_ln",
    "input_layernorm": "attn.layernorm_qkv.0",
    "post_attention_layernorm": "ffn.0",
    "mlp.down_proj": "ffn.3",
}
# The names of the files of 2024 -> those of biohub/ESMC-*.
FUSED = {
    "attn.layernorm_qkv.0.": "attn.layernorm_qkv.layer_norm_",
    "attn.layernorm_qkv.1.": "attn.layernorm_qkv.",
    "ffn.0.": "ffn.layer_norm_",
    "ffn.1.": "ffn.fc1_",
    "ffn.3.": "ffn.fc2_",
}


def esmc_model(architecture: EsmcArchitecture) -> EsmcForMaskedLM:
    config = EsmcConfig(
        hidden_size=architecture.width,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        intermediate_size=architecture.ffn_width,
    )
    return EsmcForMaskedLM(config)


def authors_state(model: EsmcForMaskedLM) -> dict[str, Tensor]:
    """The weights of a file of 2024."""
    state = {name: tensor.clone() for name, tensor in model.esmc.state_dict().items()}
    for number in range(model.config.num_hidden_layers):
        layer = f"layers.{number}"
        for joined, parts in (
            ("attn.layernorm_qkv.1", [f"self_attn.{part}_proj" for part in "qkv"]),
            ("ffn.1", ["mlp.gate_proj", "mlp.up_proj"]),
        ):
            tensors = [state.pop(f"{layer}.{part}.weight") for part in parts]
            state[f"{layer}.{joined}.weight"] = torch.cat(tensors)
    state = {f"transformer.{n}" if n == "norm.weight" else n: t for n, t in state.items()}
    head = {f"sequence_head.{n}.bias": torch.ones(64) for n in (0, 2, 3)}
    return rename(state, AUTHORS) | head


def save_published(model: EsmcForMaskedLM, folder: Path) -> Path:
    """A folder as of biohub/ESMC-*."""
    folder.mkdir()
    config = model.config
    sizes = {
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_layers": config.num_hidden_layers,
    }
    (folder / "config.json").write_text(json.dumps(PUBLISHED | sizes))
    state = rename(authors_state(model), FUSED | {"sequence_head": "lm_head"})
    state = {n if n.startswith("lm_head") else f"esmc.{n}": t for n, t in state.items()}
    formats = ("attn.layernorm_qkv", "ffn")
    for name in [f"{n}.{part}" for n in range(config.num_hidden_layers) for part in formats]:
        state[f"esmc.transformer.blocks.{name}._extra_state"] = torch.zeros(0, dtype=torch.uint8)
    save_file(state, folder / "model.safetensors")
    return folder


def plain_esmc(state: dict[str, Tensor], heads: int, tokens: Tensor) -> list[Tensor]:
    """Every layer's rows of one sequence, the embedding's first; state: of a file of 2024."""

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        return functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)

    x = state["embed.weight"][tokens]
    n, width = x.shape
    layers = sum(name.endswith("attn.out_proj.weight") for name in state)
    scale, rows = math.sqrt(layers / 36), [x]
    for number in range(layers):
        attn, ffn = (f"transformer.blocks.{number}.{part}" for part in ("attn", "ffn"))
        qkv = norm(x, f"{attn}.layernorm_qkv.0") @ state[f"{attn}.layernorm_qkv.1.weight"].T
        q, k, v = qkv.chunk(3, dim=-1)
        q, k = norm(q, f"{attn}.q_ln"), norm(k, f"{attn}.k_ln")
        q, k, v = (part.view(n, heads, width // heads) for part in (q, k, v))
        q, k = turned(q) / math.sqrt(width // heads), turned(k)
        mixed = plain_attention(q, k, v, None).reshape(n, width)
        x = x + mixed @ state[f"{attn}.out_proj.weight"].T / scale
        both = norm(x, f"{ffn}.0") @ state[f"{ffn}.1.weight"].T
        first, second = both.chunk(2, dim=-1)
        x = x + (functional.silu(first) * second) @ state[f"{ffn}.3.weight"].T / scale
        rows.append(x)
    return [*rows[:-1], norm(x, "transformer.norm")]


def turned(x: Tensor) -> Tensor:
    """Queries or keys, (n, heads, head_dim), turned by their positions from 0."""
    half = torch.arange(0, x.shape[-1], 2) / x.shape[-1]
    angles = torch.outer(torch.arange(len(x)).float(), 1 / 10000**half)[:, None].repeat(1, 1, 2)
    first, second = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()
