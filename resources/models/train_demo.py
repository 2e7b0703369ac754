"""Train a small model to show the workflow with: masked language modelling, on a CPU.

What all families share is here: reading, crops, masks, training, evaluation. A family's own
module has its tokens, its model and the folder that it is saved as. From the project's folder:

    PYTHONPATH=workflow/scripts python resources/models/train_demo.py --family esm2 \
        --output FOLDER FASTA...

The figures are printed; a seed and the number of threads decide them on one machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_model import DemoModel, Tokens
from torch import Tensor
from torch.nn import functional

from seqembed.fasta.reader import read_batches
from seqembed.storage.digests import digest

# Each family's module and model. The model may have a hold_out of its own instead of hold_out_some.
FAMILIES = {"esm2": ("demo_esm2", "DemoEsm2"), "dnabert_s": ("demo_dnabert_s", "DemoDnabertS")}

HELD_OUT = 20  # one distinct sequence in so many
MASKED = 0.15  # of what may be masked; training alone can be told another share
HIDDEN, RANDOM = 0.8, 0.1  # shares of what is masked in training; the rest stays as it is
EVALUATED_TOKENS = 1024  # of a held-out sequence: as much as ESM-2 embeds
LOG_EVERY = 100
SEED = 20260801


@dataclass(frozen=True)
class Split:
    """Distinct sequences by digest; only `trained` is trained on."""

    trained: dict[bytes, bytes]
    held_out: dict[bytes, bytes]
    kept_out: dict[bytes, bytes]


def read_distinct(paths: Iterable[Path]) -> dict[bytes, bytes]:
    """The distinct sequences of FASTA files by digest, in the order of the files."""
    batches = (batch for path in paths for batch in read_batches(path))
    return {digest(residues): residues for batch in batches for residues in batch.residues}


Sides = tuple[dict[bytes, bytes], dict[bytes, bytes]]


def hold_out_some(sequences: dict[bytes, bytes]) -> Sides:
    """Those to train on, and one in HELD_OUT, as their digests fall."""
    trained: dict[bytes, bytes] = {}
    held_out: dict[bytes, bytes] = {}
    for key, residues in sequences.items():
        side = trained if int.from_bytes(key) % HELD_OUT else held_out
        side[key] = residues
    return trained, held_out


def split(
    sequences: dict[bytes, bytes],
    kept_out: dict[bytes, bytes],
    hold_out: Callable[[dict[bytes, bytes]], Sides] = hold_out_some,
) -> Split:
    """Hold out a part of the sequences that are not kept out."""
    rest = {key: residues for key, residues in sequences.items() if key not in kept_out}
    trained, held_out = hold_out(rest)
    if not trained:
        raise SystemExit("no sequence is left to train on")
    return Split(trained, held_out, kept_out)


def windows(sequences: Iterable[bytes], length: int) -> set[bytes]:
    """Every run of `length` residues."""
    return {s[i : i + length] for s in sequences for i in range(len(s) - length + 1)}


def without_relatives(split: Split, length: int) -> list[bytes]:
    """The held-out sequences that share no `length` residues in a row with one trained on."""
    mine = windows(split.held_out.values(), length)
    shared = set()
    for residues in split.trained.values():
        shared |= mine & windows([residues], length)
    return [s for s in split.held_out.values() if not windows([s], length) & shared]


def crops(sequences: Sequence[Tokens], length: int, rng: np.random.Generator) -> Iterator[Tokens]:
    """Windows of at most `length` tokens, without end; a long sequence is drawn more often."""
    visits = np.repeat(np.arange(len(sequences)), [-(-len(s) // length) for s in sequences])
    while True:
        for number in rng.permutation(visits):
            tokens = sequences[number]
            start = rng.integers(max(len(tokens) - length, 0) + 1)
            yield tokens[start : start + length]


def packed(pieces: Iterable[Tokens], budget: int) -> Iterator[tuple[Tokens, Tensor]]:
    """Batches of about `budget` tokens: the tokens end to end, and cu_seqlens."""
    batch: list[Tokens] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= budget:
            yield pack(batch)
            batch, size = [], 0
    if batch:
        yield pack(batch)


def pack(pieces: Sequence[Tokens]) -> tuple[Tokens, Tensor]:
    bounds = np.cumsum([0, *map(len, pieces)], dtype=np.int32)
    return np.concatenate(pieces), torch.from_numpy(bounds)


@dataclass(frozen=True)
class Masked:
    """A batch to learn from: what the model sees, and the places and tokens it must name."""

    inputs: Tensor
    cu_seqlens: Tensor
    chosen: Tensor
    targets: Tensor


def mask(
    model: DemoModel,
    tokens: Tokens,
    cu_seqlens: Tensor,
    rng: np.random.Generator,
    *,
    masked: float = MASKED,
    hidden: float = HIDDEN,
    random: float = RANDOM,
) -> Masked:
    """Choose residues, and replace shares of them by the mask and by random residues."""
    candidates = np.isin(tokens, model.maskable)
    chosen = np.flatnonzero(candidates & (rng.random(len(tokens)) < masked))
    fate = rng.random(len(chosen))
    inputs = tokens.copy()
    inputs[chosen[fate < hidden]] = model.mask_token
    swapped = chosen[(fate >= hidden) & (fate < hidden + random)]
    inputs[swapped] = rng.choice(model.replacements, len(swapped))
    targets = torch.from_numpy(tokens[chosen])
    return Masked(torch.from_numpy(inputs), cu_seqlens, torch.from_numpy(chosen), targets)


def loss_of(model: DemoModel, batch: Masked, reduction: str = "mean") -> Tensor:
    """Nats per masked residue, or their sum."""
    logits = model(batch.inputs, batch.cu_seqlens, batch.chosen)
    return functional.cross_entropy(logits, batch.targets, reduction=reduction)


def all_hidden(model: DemoModel, sequences: Iterable[bytes], seed: int) -> Iterator[Masked]:
    """Whole sequences one by one, every chosen residue hidden.

    One that is shown, as some are in training, is easily named: it would not be comparable to the
    entropy of the residues.
    """
    rng = np.random.default_rng(seed)
    for residues in sequences:
        tokens, cu_seqlens = pack([model.encode(residues)[:EVALUATED_TOKENS]])
        yield mask(model, tokens, cu_seqlens, rng, hidden=1.0, random=0.0)


@torch.inference_mode()
def evaluate(model: DemoModel, sequences: Iterable[bytes], seed: int) -> float:
    """Nats per masked residue of whole sequences, every masked residue hidden."""
    total, count = 0.0, 0
    for batch in all_hidden(model, sequences, seed):
        total += loss_of(model, batch, "sum").item()
        count += len(batch.targets)
    return total / count


def entropy(model: DemoModel, sequences: Iterable[bytes]) -> float:
    """Nats per residue of the best guess from the residues' frequencies in these sequences."""
    tokens = np.concatenate([model.encode(s)[:EVALUATED_TOKENS] for s in sequences])
    counts = np.bincount(tokens[np.isin(tokens, model.maskable)])
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def unigram_loss(
    model: DemoModel, trained: Iterable[bytes], sequences: Iterable[bytes], seed: int
) -> float:
    """Nats per masked residue, the same ones as evaluate's, guessed by those trained on.

    The guess is how often each residue or token occurs there, whatever is around it.
    Each is counted once more than it does, so that none is impossible.
    """
    counts = token_counts(model, [model.encode(s) for s in trained]) + 1
    batches = all_hidden(model, sequences, seed)
    found = token_counts(model, [batch.targets.numpy() for batch in batches])
    return float(-(found * np.log(counts / counts.sum())).sum() / found.sum())


def token_counts(model: DemoModel, sequences: Iterable[Tokens]) -> Tokens:
    """How often each token that may be masked occurs, in the order of model.maskable."""
    tokens = np.concatenate(list(sequences))
    return np.bincount(tokens, minlength=model.maskable.max() + 1)[model.maskable]


def optimiser_of(model: DemoModel, options: argparse.Namespace) -> torch.optim.AdamW:
    """AdamW; biases and norms do not decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.peak_rate, betas=(0.9, 0.98))


def rate_at(step: int, steps: int, warmup: int) -> float:
    """The share of the peak rate: up in a line, down to 0 along a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def train(model: DemoModel, sequences: Iterable[bytes], options: argparse.Namespace) -> int:
    """Train for options.steps batches; returns the number of tokens seen."""
    rng = np.random.default_rng(options.seed)
    optimiser = optimiser_of(model, options)
    pieces = crops([model.encode(s) for s in sequences], options.crop, rng)
    seen, recent, started = 0, [], time.monotonic()
    for step, (tokens, cu_seqlens) in enumerate(packed(pieces, options.batch_tokens)):
        if step == options.steps:
            break
        rate = options.peak_rate * rate_at(step, options.steps, options.warmup)
        loss = loss_of(model, mask(model, tokens, cu_seqlens, rng, masked=options.masked))
        update(model, optimiser, loss, rate, options.clip)
        seen += len(tokens)
        recent.append(loss.item())
        if len(recent) == LOG_EVERY:
            pace = seen / (time.monotonic() - started)
            print(
                f"step {step + 1:,}: loss {np.mean(recent):.4f}, {pace:,.0f} tokens/s", flush=True
            )
            recent = []
    return seen


def update(
    model: DemoModel, optimiser: torch.optim.AdamW, loss: Tensor, rate: float, clip: float
) -> None:
    """One step down the loss, its gradient clipped."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()


def describe(
    model: DemoModel, sequences: Sequence[bytes], trained: Iterable[bytes], seed: int
) -> dict[str, float]:
    """The figures of sequences that were not trained on."""
    if not sequences:
        return {"sequences": 0}
    loss, unigram = evaluate(model, sequences, seed), entropy(model, sequences)
    return {
        "sequences": len(sequences),
        "loss": round(loss, 4),
        "perplexity": round(math.exp(loss), 3),
        "unigram_entropy": round(unigram, 4),
        "unigram_perplexity": round(math.exp(unigram), 3),
        "unigram_loss": round(unigram_loss(model, trained, sequences, seed), 4),
    }


def family_of(name: str) -> Any:
    """The class of a family's model; no other family's module is read."""
    module, model = FAMILIES[name]
    return getattr(importlib.import_module(module), model)


def run(options: argparse.Namespace) -> None:
    """Train, save, and print the figures; those of sequences are of the model as it was saved."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    family = family_of(options.family)
    hold_out = getattr(family, "hold_out", hold_out_some)
    data = split(read_distinct(options.fasta), read_distinct(options.keep_out), hold_out)
    model = family.start(data.trained.values())
    started = time.monotonic()
    seen = train(model, data.trained.values(), options)
    seconds = time.monotonic() - started
    model.save(options.output)
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_sequences": len(data.trained),
        "trained_residues": sum(map(len, data.trained.values())),
        "tokens": seen,
        "seconds": round(seconds),
        **held_out_figures(family.load(options.output), data, options.seed),
    }
    print(json.dumps(figures, indent=2), flush=True)


def held_out_figures(model: DemoModel, data: Split, seed: int) -> dict[str, dict[str, float]]:
    groups = {
        "held_out": list(data.held_out.values()),
        "held_out_without_relatives": without_relatives(data, model.related),
        "kept_out": list(data.kept_out.values()),
    }
    trained = data.trained.values()
    return {name: describe(model, group, trained, seed) for name, group in groups.items()}


def parse() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fasta", type=Path, nargs="+", help="FASTA files to train on")
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")
    keep_out = "FASTA file whose sequences are not trained on, and reported by themselves"
    parser.add_argument("--keep-out", type=Path, action="append", default=[], help=keep_out)
    integers = {"steps": 3600, "warmup": 200, "batch-tokens": 2048, "crop": 256, "threads": 1}
    for name, number in (integers | {"seed": SEED}).items():
        parser.add_argument(f"--{name}", type=int, default=number, help="(%(default)s)")
    reals = {"peak-rate": 1e-3, "weight-decay": 0.01, "clip": 1.0, "masked": MASKED}
    for name, value in reals.items():
        parser.add_argument(f"--{name}", type=float, default=value, help="(%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    run(parse())
