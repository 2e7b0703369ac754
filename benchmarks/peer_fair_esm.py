"""A peer: fair-esm as its own scripts/extract.py uses it, but that rows stay in memory."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import contest
import torch
from esm import FastaBatchedDataset
from esm.pretrained import load_model_and_alphabet_core


def load(options: argparse.Namespace) -> tuple[Any, Any]:
    """The model and its batch converter."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(options.model, weights_only=True)
    head = ("contact_head.regression.weight", "contact_head.regression.bias")
    named = [f"encoder.sentence_encoder.{name}" for name in head]
    regression = {"model": {name: checkpoint["model"][name] for name in named}}
    model, alphabet = load_model_and_alphabet_core("esm2", checkpoint, regression)
    model = model.to(options.device, contest.DTYPES[options.precision]).eval()
    return model, alphabet.get_batch_converter()


def embed(model: Any, convert: Any, dataset: Any, batch: Sequence[int]) -> contest.Embedded:
    _, sequences, tokens = convert([dataset[number] for number in batch])
    tokens = tokens.to(next(model.parameters()).device)
    last = model.num_layers
    hidden = model(tokens, repr_layers=[last], return_contacts=False)["representations"][last]
    means = [row[1 : len(own) + 1].mean(0) for row, own in zip(hidden, sequences, strict=True)]
    real = sum(len(own) + 2 for own in sequences)
    return contest.Embedded(torch.stack(means).float().cpu(), real, tokens.numel())


def main() -> None:
    options = contest.parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    model, convert = load(options)
    dataset = FastaBatchedDataset.from_file(options.fasta)
    # extract.py counts one special token of a sequence's two.
    plan = partial(dataset.get_batch_indices, extra_toks_per_seq=1)
    contest.race(options, plan, lambda batch: embed(model, convert, dataset, batch))


if __name__ == "__main__":
    main()
