"""Make esm2_random: a small ESM-2 with seeded random weights, as a Hugging Face folder.

Its embeddings mean nothing biologically; it is there to show the workflow without a download.
Uniform numbers, unlike normal ones, come out the same to the bit on every CPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

SEED = 20260801
LAYERS, WIDTH, HEADS, FFN_WIDTH = 4, 64, 4, 256
SPECIALS = ["<cls>", "<pad>", "<eos>", "<unk>"]
VOCABULARY = [*SPECIALS, *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
CONFIG = {
    "architectures": ["EsmModel"],
    "attention_probs_dropout_prob": 0.0,
    "dtype": "float32",
    "emb_layer_norm_before": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": WIDTH,
    "intermediate_size": FFN_WIDTH,
    "layer_norm_eps": 1e-5,
    "mask_token_id": VOCABULARY.index("<mask>"),
    "max_position_embeddings": 1026,
    "model_type": "esm",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": VOCABULARY.index("<pad>"),
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "vocab_size": len(VOCABULARY),
}


def uniform(generator: torch.Generator, *shape: int, spread: float) -> Tensor:
    """Numbers between -spread and spread, float32."""
    return (torch.rand(shape, generator=generator) - 0.5) * (2 * spread)


def random_linear(generator: torch.Generator, name: str, rows: int, columns: int) -> dict:
    # Wide enough for attention to be far from flat: neighbours matter, as in a trained model.
    weight = uniform(generator, rows, columns, spread=3 * columns**-0.5)
    return {f"{name}.weight": weight, f"{name}.bias": uniform(generator, rows, spread=0.2)}


def random_norm(generator: torch.Generator, name: str) -> dict:
    weight = 1 + uniform(generator, WIDTH, spread=0.2)
    return {f"{name}.weight": weight, f"{name}.bias": uniform(generator, WIDTH, spread=0.2)}


def random_layer(generator: torch.Generator, name: str) -> dict:
    """One transformer layer's weights, under Hugging Face's names."""
    state = random_norm(generator, f"{name}.attention.LayerNorm")
    for part in ("self.query", "self.key", "self.value", "output.dense"):
        state |= random_linear(generator, f"{name}.attention.{part}", WIDTH, WIDTH)
    state |= random_norm(generator, f"{name}.LayerNorm")
    state |= random_linear(generator, f"{name}.intermediate.dense", FFN_WIDTH, WIDTH)
    return state | random_linear(generator, f"{name}.output.dense", WIDTH, FFN_WIDTH)


def random_state(generator: torch.Generator) -> dict:
    embedding = uniform(generator, len(VOCABULARY), WIDTH, spread=1.0)
    embedding[VOCABULARY.index("<pad>")] = 0
    state = {"embeddings.word_embeddings.weight": embedding}
    for number in range(LAYERS):
        state |= random_layer(generator, f"encoder.layer.{number}")
    return state | random_norm(generator, "encoder.emb_layer_norm_after")


def make_model(folder: Path) -> None:
    """Write config.json, vocab.txt and model.safetensors into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(CONFIG, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    state = random_state(torch.Generator().manual_seed(SEED))
    # transformers reads a file's origin from this entry, and refuses a file without it.
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "esm2_random"
    parser.add_argument("--output", type=Path, default=default, help="folder (%(default)s)")
    make_model(parser.parse_args().output)


if __name__ == "__main__":
    main()
