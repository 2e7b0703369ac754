"""Batches, models and runners in this process, and the rows that they give."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families_table import TABLE
from torch import nn
from worker_runs import make_sequences

from seqembed.checkpoints.manifest_and_failures import Failures, write_failures
from seqembed.inference.batches import (
    PackedBatch,
    RawBatch,
    VarlenCollator,
    plan_batches,
    plan_passes,
)
from seqembed.inference.failure_tracker import FailureTracker
from seqembed.inference.rows import BatchRows, Outputs
from seqembed.inference.runner import AsyncInferenceRunner
from seqembed.models.architectures import Architecture, Esm2Architecture
from seqembed.models.encoders.tokenization import ResidueTokenizer, Tokenizer
from seqembed.models.vocabularies import ESM, Specials
from seqembed.models.weights.checkpoint import LAYOUTS
from seqembed.settings.lengths import LengthPolicy

CPU = torch.device("cpu")
ONE_EACH = Specials()
LOGGER = logging.getLogger("seqembed.tests")
# 36 and 52 values do not fill whole vectors of a CPU.
SMALL = [Esm2Architecture(3, 64, 4, 256), Esm2Architecture(2, 36, 3, 52)]
SMALL += {member.family: member.small[1] for member in TABLE[1:]}.values()
# The authors' widths, once each, of which layers do not differ.
TRUE_WIDTHS = {
    (member.family, a.width): replace(a, layers=1) for member in TABLE for a in member.true
}.values()
TOKENIZER_OF = {member.family: member.tokenizer for member in TABLE}
TOKENIZER = ResidueTokenizer(ESM)
LAYOUT_OF = {layout.family.architecture: layout for layout in LAYOUTS}
TRUNCATE = LengthPolicy(long_sequences="truncate", max_length=1022)
WINDOW = LengthPolicy(long_sequences="window", max_length=60)
# A random sequence of each length.
POOL = {n: make_sequences([n], seed=n)[0] for n in range(1, 1023)}


def name_of(architecture: Architecture) -> str:
    return f"{type(architecture).__name__.removesuffix('Architecture')} {architecture.width} wide"


def outputs(
    pooling: str = "mean",
    per_residue: bool = False,
    storage: str = "float32",
    specials: Specials = ONE_EACH,
) -> Outputs:
    return Outputs(
        pooling=pooling,
        specials=specials,
        pools_specials=False,
        per_residue=per_residue,
        storage=storage,
    )


@functools.cache
def model_of(architecture: Architecture) -> nn.Module:
    torch.manual_seed(11)
    encoder = LAYOUT_OF[type(architecture)].encoder
    model = encoder(architecture, architecture.layers).eval().requires_grad_(False)
    for layer in model.layers:
        # Attention far from flat: else neighbours would not be noticed.
        layer.qkv.weight.mul_(3)
    return model


def outputs_of(architecture: Architecture, wanted: Outputs) -> Outputs:
    """The outputs with the family's special tokens."""
    return replace(wanted, specials=LAYOUT_OF[type(architecture)].family.specials)


@functools.cache
def folder() -> tempfile.TemporaryDirectory:
    """A folder for trackers, removed when the tests end."""
    return tempfile.TemporaryDirectory()


def tracker_of(count: int, where: Path | None = None, **known: Any) -> FailureTracker:
    """A tracker of a shard of `count` sequences whose failures are `known`, or none."""
    digests = np.arange(16 * count, dtype=np.uint16).view(np.uint8)[: 16 * count].reshape(-1, 16)
    where = where or Path(folder().name)
    write_failures(where, Failures(**known))
    tracker = FailureTracker(where, digests, "sequence {}".format, LOGGER)
    tracker.start(range(count), lambda: None)
    return tracker


def runner_of(
    model: nn.Module,
    count: int,
    wanted: Outputs,
    tracker: FailureTracker | None = None,
    *,
    precise: nn.Module | None = None,
    budget: int = 4096,
    threads: int = 1,
) -> AsyncInferenceRunner:
    return AsyncInferenceRunner(
        model,
        CPU,
        wanted,
        tracker or tracker_of(count),
        lambda: precise or model,
        token_budget=budget,
        streams=threads,
        threads=threads,
    )


def pack(
    sequences: Sequence[str],
    budget: int,
    policy: LengthPolicy = TRUNCATE,
    tokenizer: Tokenizer = TOKENIZER,
) -> Iterable[PackedBatch]:
    """The sequences, in their order, in batches."""
    collate = VarlenCollator(tokenizer.encode_all, policy)
    residues = [sequence.encode() for sequence in sequences]
    tokens = np.array([len(r) for r in residues])
    passes, at_once = policy.passes(tokens, budget), policy.windows_a_pass(budget)
    bounds = plan_batches(policy.last_pass(tokens, budget), budget, passes > 1)
    batches, begins = plan_passes(bounds, np.arange(len(bounds) - 1), passes, at_once)
    for number, (batch, begin) in enumerate(zip(batches.tolist(), begins.tolist(), strict=True)):
        last = number + 1 == len(batches) or batches[number + 1] != batch
        start = bounds[batch]
        stop, end = (bounds[batch + 1], None) if last else (start + 1, begin + at_once)
        yield collate(RawBatch(np.arange(start, stop), residues[start:stop], (begin, end)))


def pack_for(
    architecture: Architecture, sequences: Sequence[str], budget: int, policy: LengthPolicy
) -> Iterable[PackedBatch]:
    """As `pack`, with the family's tokens, and no more residues than it has positions for.

    DNABERT's models get ESM-2's tokens, whose ids they have: its tokenizer takes no proteins.
    """
    family = LAYOUT_OF[type(architecture)].family
    most = min(policy.max_length, family.max_length)
    policy = replace(policy, max_length=most, specials=family.specials)
    tokenizer = TOKENIZER_OF[family.name] if family.vocabulary else TOKENIZER
    return pack(sequences, budget, policy, tokenizer)


def embed(
    architecture: Architecture,
    sequences: Sequence[str],
    budget: int = 4096,
    threads: int = 1,
    policy: LengthPolicy = TRUNCATE,
    wanted: Outputs | None = None,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(N, D) rows in the order of the sequences, and the (n, D) token rows of each."""
    wanted = outputs_of(architecture, wanted or outputs())
    model, batches = model_of(architecture), pack_for(architecture, sequences, budget, policy)
    runner = runner_of(model, len(sequences), wanted, budget=budget, threads=threads)
    return gather(runner.run(batches), len(sequences))


def gather(parts: Iterable[BatchRows], count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return `count` sequences' (N, D) rows, in input order, and each one's (n, D) token rows."""
    whole = [part for part in parts if len(part.positions) or part.residues]
    positions = np.concatenate([part.positions for part in whole])
    assert positions.tolist() == list(range(count))
    residues: list[list[np.ndarray]] = [[] for _ in range(count)]
    for part in whole:
        for position, rows in part.residues:
            residues[position].append(rows)
    tokens = [np.concatenate(found) for found in residues if found]
    return np.concatenate([part.rows for part in whole]), tokens
