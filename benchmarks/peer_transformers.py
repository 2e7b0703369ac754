"""A peer: Hugging Face's EsmModel, in one of three ways to make batches of sequences."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import contest
import torch
from transformers import EsmModel, EsmTokenizer

UNSORTED = 16


def plan(order: str, sequences: Sequence[str]) -> list[list[int]]:
    numbers = list(range(len(sequences)))
    if order == "sorted":
        return contest.padded_batches([len(sequence) + 2 for sequence in sequences])
    size = UNSORTED if order == "unsorted" else 1
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def embed(
    model: Any, tokenizer: Any, sequences: Sequence[str], batch: Sequence[int]
) -> contest.Embedded:
    chosen = [sequences[number] for number in batch]
    inputs = tokenizer(chosen, padding=True, return_tensors="pt").to(model.device)
    hidden = model(**inputs).last_hidden_state
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    specials = (tokens == tokenizer.cls_token_id) | (tokens == tokenizer.eos_token_id)
    rows = contest.mean_rows(hidden, mask.bool() & ~specials)
    return contest.Embedded(rows, int(mask.sum()), mask.numel())


def main() -> None:
    parser: argparse.ArgumentParser = contest.parser(__doc__)
    parser.add_argument("--order", choices=["sorted", "unsorted", "single"], required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = EsmTokenizer.from_pretrained(options.model)
    model = EsmModel.from_pretrained(
        options.model,
        add_pooling_layer=False,
        attn_implementation="sdpa",
        dtype=contest.DTYPES[options.precision],
    )
    model = model.to(options.device).eval()
    sequences = contest.read_sequences(options.fasta)
    batches = plan(options.order, sequences)
    contest.race(options, batches, lambda batch: embed(model, tokenizer, sequences, batch))


if __name__ == "__main__":
    main()
