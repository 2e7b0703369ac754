"""Batches on a CUDA device, one queued behind the other, against the CPU's, in fp32."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from worker_runs import make_project, make_sequences

from seqembed.inference.batches import (
    RawBatch,
    VarlenCollator,
    plan_batches,
    plan_passes,
)
from seqembed.inference.failure_tracker import FailureTracker
from seqembed.inference.loader import IndexBasedDataset, create_async_dataloader
from seqembed.inference.runner import AsyncInferenceRunner, Outputs
from seqembed.models.encoders.dnabert_s import DnabertS
from seqembed.models.encoders.esm2 import Esm2
from seqembed.models.encoders.tokenization import Esm2Tokenizer
from seqembed.models.families import DnabertArchitecture, Esm2Architecture
from seqembed.settings.lengths import LengthPolicy

CPU = torch.device("cpu")
WINDOW = LengthPolicy(long_sequences="window", max_length=400)
# Of different sizes: if a batch's memory were freed too early, the next one would overwrite it.
LENGTHS = [1000, 300, 40, *range(700, 20, -17), 3, 900]
SHAPES = {
    Esm2: Esm2Architecture(3, 320, 20, 1280),
    DnabertS: DnabertArchitecture(2, 768, 12, 3072, 30),
}


@pytest.fixture(autouse=True)
def device(card):
    return torch.device("cuda")


@pytest.fixture(params=SHAPES, ids=lambda kind: kind.__name__)
def model(request):
    torch.manual_seed(5)
    shape = SHAPES[request.param]
    return request.param(shape, shape.layers).eval().requires_grad_(False)


def pack_all(pinned):
    letters, choice = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", np.uint8), np.random.default_rng(3)
    collate = VarlenCollator(Esm2Tokenizer().encode_all, WINDOW)
    for start in range(0, len(LENGTHS), 4):
        positions = np.arange(start, min(start + 4, len(LENGTHS)))
        residues = [choice.choice(letters, LENGTHS[n]).tobytes() for n in positions]
        batch = collate(RawBatch(positions, residues))
        yield batch.pin_memory() if pinned else batch


def embed(model, device, folder):
    """(N, D) rows, and the token rows, of all sequences."""
    digests = np.arange(16 * len(LENGTHS), dtype=np.uint16).view(np.uint8)[: 16 * len(LENGTHS)]
    tracker = FailureTracker(
        folder, digests.reshape(-1, 16), str, logging.getLogger("seqembed.tests")
    )
    tracker.start(range(len(LENGTHS)), lambda: None)
    wanted = Outputs(pooling="mean", pools_specials=True, per_residue=True, storage="float32")
    model = copy.deepcopy(model).to(device)
    runner = AsyncInferenceRunner(
        model, device, wanted, tracker, lambda: model, token_budget=4096, streams=1, threads=1
    )
    parts = list(runner.run(pack_all(pinned=device.type == "cuda")))
    assert np.concatenate([part.positions for part in parts]).tolist() == [*range(len(LENGTHS))]
    residues = [rows for part in parts for _, rows in part.residues]
    return np.concatenate([part.rows for part in parts if part.tokens]), np.concatenate(residues)


def test_a_gpus_batches_are_a_cpus_in_page_locked_memory(tmp_path):
    sequences = make_sequences([700, *range(90, 50, -1)])
    index = make_project(tmp_path, tmp_path / "no model", sequences).index()
    tokens = WINDOW.last_pass(np.array([*map(len, sequences)]), 900)
    bounds = plan_batches(tokens, 900)
    passes = plan_passes(bounds, np.arange(len(bounds) - 1), np.ones(len(tokens), np.int64), 2)
    dataset = IndexBasedDataset(index, bounds, passes, 2)
    collator = VarlenCollator(Esm2Tokenizer().encode_all, WINDOW)
    found, expected = (
        list(create_async_dataloader(dataset, collator, torch.device(name)))
        for name in ("cuda", "cpu")
    )
    assert len(found) == len(expected) > 3
    for ours, plain in zip(found, expected, strict=True):
        assert ours.tokens.is_pinned() and ours.packing.cu_seqlens.is_pinned()
        assert torch.equal(ours.tokens, plain.tokens) and ours.windows == plain.windows
        assert ours.packing.bounds == plain.packing.bounds


def test_a_gpu_gives_the_rows_of_the_cpu_in_their_order(model, device, tmp_path):
    for found, expected in zip(*(embed(model, d, tmp_path) for d in (device, CPU)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_a_gpu_gives_the_same_bits_again(model, device, tmp_path):
    first, again = (embed(model, device, tmp_path) for _ in range(2))
    assert [rows.tobytes() for rows in first] == [rows.tobytes() for rows in again]
