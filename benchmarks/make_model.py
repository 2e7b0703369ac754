"""Make the random weights of a race, in the layout that each contestant reads.

hf/: a Hugging Face folder. fair.pt, of an ESM-2 only: the same weights in fair-esm's words. Both
get these names once they are whole, and what is there already is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from shapes import SHAPES, Shape
from torch import Tensor

CHECKOUT = Path(__file__).resolve().parents[1]
PROTEIN_FILES = CHECKOUT / "tests/data/esm2_random"
DNA_FILES = CHECKOUT / "tests/data/dnabert_s"
SEED = 20260801
# The largest weights file in each precision: 650M stays in one, 3B has two files in fp32, and 15B
# seven in fp16, as the real models have in fp32. Each file is copied from the device by itself.
FILE_SIZES = {torch.float32: "10GB", torch.float16: "5GB"}
# The standard deviation of matrices, as authors begin to train with. With larger values, a random
# DNABERT-S makes much of what fp16 rounds: its rows would say nothing of how exact fp16 is.
MATRICES = 0.02
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
# What all models of a T5's family have alike, in the words of config.json.
T5_SETTINGS: dict[str, dict[str, Any]] = {
    "prot_t5": {
        "vocab_size": 128,
        "feed_forward_proj": "relu",
        "relative_attention_num_buckets": 32,
    },
    "ankh": {
        "vocab_size": 144,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 64,
    },
}
# Longer names first: the others are parts of them.
FAIR_WORDS = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "LayerNorm": "final_layer_norm",
    "encoder.emb_layer_norm_after": "emb_layer_norm_after",
    "encoder.layer": "layers",
    "embeddings.word_embeddings": "embed_tokens",
}


def write_config(folder: Path, files: Path, shape: Shape) -> None:
    """A real folder's config.json with the shape's numbers, and its vocabulary or tokenizer."""
    folder.mkdir(parents=True)
    config = json.loads((files / "config.json").read_text()) | {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.ffn_width,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("vocab.txt", "tokenizer.json"):
        if (files / name).exists():
            shutil.copy(files / name, folder)


def save(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write a model of transformers in a precision, in files as large as those of real models."""
    model.to(dtype).save_pretrained(folder, max_shard_size=FILE_SIZES[dtype])


def make_esm2(folder: Path, shape: Shape, device: str, dtype: torch.dtype) -> None:
    from transformers import EsmConfig, EsmModel

    write_config(folder, PROTEIN_FILES, shape)
    with torch.device(device):
        model = EsmModel(EsmConfig.from_pretrained(folder), add_pooling_layer=False)
    save(model, folder, dtype)


def make_esmc(folder: Path, shape: Shape, device: str, dtype: torch.dtype) -> None:
    from transformers import EsmcConfig, EsmcModel, EsmcTokenizer

    config = EsmcConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.width,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn_width,
    )
    with torch.device(device):
        model = EsmcModel(config)
    save(model, folder, dtype)
    EsmcTokenizer().save_pretrained(folder)


def make_t5(folder: Path, shape: Shape, device: str, dtype: torch.dtype) -> None:
    """The encoder alone, without a tokenizer: its tokens are built in."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        num_layers=shape.layers,
        d_model=shape.width,
        num_heads=shape.heads,
        d_kv=shape.head_dim,
        d_ff=shape.ffn_width,
        relative_attention_max_distance=128,
        **T5_SETTINGS[shape.family],
    )
    with torch.device(device):
        model = T5EncoderModel(config)
    # With biases of the size with which authors begin, a row would change by little.
    biases = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    torch.nn.init.normal_(biases.weight)
    save(model, folder, dtype)


def save_fair(folder: Path, shape: Shape, device: str, path: Path) -> None:
    """Write the weights of an ESM-2's Hugging Face folder as fair-esm reads them.

    fair-esm also wants a language model's head, which takes no part in the rows.
    """
    from esm.model.esm2 import ESM2

    parts = [load_file(file) for file in folder.glob("*.safetensors")]
    state = {name: tensor for part in parts for name, tensor in part.items()}
    with torch.device(device):
        theirs = ESM2(shape.layers, shape.width, shape.heads)
    wanted = theirs.state_dict()
    renamed = {fair_name(name): tensor for name, tensor in state.items()}
    theirs.load_state_dict(wanted | {n: t for n, t in renamed.items() if n in wanted})
    settings = argparse.Namespace(
        encoder_layers=shape.layers,
        encoder_embed_dim=shape.width,
        encoder_attention_heads=shape.heads,
        token_dropout=True,
    )
    named = {f"encoder.sentence_encoder.{n}": t.cpu() for n, t in theirs.state_dict().items()}
    torch.save({"cfg": {"model": settings}, "model": named}, path)


def fair_name(name: str) -> str:
    for ours, theirs in FAIR_WORDS.items():
        name = name.replace(ours, theirs)
    return name


def make_dnabert(folder: Path, shape: Shape, device: str, dtype: torch.dtype) -> None:
    write_config(folder, DNA_FILES, shape)
    sizes = dnabert_sizes(shape).items()
    state = {name: random_weight(name, size, device).to("cpu", dtype) for name, size in sizes}
    save_file(state, folder / "model.safetensors")


def dnabert_sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The authors' names for the weights, and their sizes."""
    width, ffn_width = shape.width, shape.ffn_width
    sizes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (4096, width),
        "embeddings.token_type_embeddings.weight": (2, width),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{number}" for number in range(shape.layers)):
        attention, mlp = f"{layer}.attention", f"{layer}.mlp"
        matrices = {
            f"{attention}.self.Wqkv": (3 * width, width),
            f"{attention}.output.dense": (width, width),
            f"{mlp}.wo": (width, ffn_width),
        }
        for name, size in matrices.items():
            sizes |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
        sizes[f"{mlp}.gated_layers.weight"] = (2 * ffn_width, width)
        norms += [f"{attention}.output.LayerNorm", f"{mlp}.layernorm"]
    return sizes | {f"{name}.{kind}": (width,) for name in norms for kind in ("weight", "bias")}


def random_weight(name: str, size: tuple[int, ...], device: str) -> Tensor:
    noise = torch.randn(size, device=device)
    if len(size) > 1:
        return noise * MATRICES
    return noise * 0.2 + ("norm.weight" in name.lower())


def make_whole(path: Path, make: Callable[[Path], None]) -> None:
    """Make a file or folder unless it is there. A call that is stopped leaves `path` unmade.

    make: writes to the path that it gets.
    """
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    if part.is_dir():
        shutil.rmtree(part)
    make(part)
    part.rename(path)


MAKERS = {
    "esm2": make_esm2,
    "esmc": make_esmc,
    "prot_t5": make_t5,
    "ankh": make_t5,
    "dnabert_s": make_dnabert,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    device = "where the weights are drawn; each device draws others (%(default)s)"
    parser.add_argument("--device", default="cpu", help=device)
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="(%(default)s)")
    parser.add_argument("--no-fair", action="store_true", help="make no fair.pt")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    shape, hf, fair = SHAPES[arguments.shape], *(arguments.output / n for n in ("hf", "fair.pt"))
    device, dtype = arguments.device, DTYPES[arguments.precision]
    make_whole(hf, lambda path: MAKERS[shape.family](path, shape, device, dtype))
    if shape.family == "esm2" and not arguments.no_fair:
        make_whole(fair, lambda path: save_fair(hf, shape, device, path))


if __name__ == "__main__":
    main()
