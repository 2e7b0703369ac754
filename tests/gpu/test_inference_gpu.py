"""Batches on a CUDA device, one queued behind the other: against the CPU's, and their bits."""

from __future__ import annotations

import copy
import logging
from itertools import pairwise

import numpy as np
import pytest
import torch
from worker_runs import make_project, make_sequences

from seqembed.environment import EnvConfig
from seqembed.index.reader import read_shard_index
from seqembed.inference.batches import (
    RawBatch,
    VarlenCollator,
    choose_filling,
    plan_batches,
    plan_passes,
)
from seqembed.inference.failure_tracker import FailureTracker
from seqembed.inference.graphs import open_graphs
from seqembed.inference.loader import IndexBasedDataset, create_async_dataloader
from seqembed.inference.rows import Outputs
from seqembed.inference.runner import AsyncInferenceRunner
from seqembed.kernels.names import FUSED, PLAIN
from seqembed.machine.prefetch import prefetch
from seqembed.models.architectures import (
    DnabertArchitecture,
    Esm1bArchitecture,
    Esm2Architecture,
    EsmcArchitecture,
    ProtT5Architecture,
    block_rows,
)
from seqembed.models.encoders.dnabert_s import DnabertS
from seqembed.models.encoders.esm1b import Esm1b
from seqembed.models.encoders.esm2 import Esm2
from seqembed.models.encoders.esmc import Esmc
from seqembed.models.encoders.t5 import T5
from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.vocabularies import ESM, Specials
from seqembed.settings.lengths import LengthPolicy
from seqembed.settings.precision import DTYPES, should_use_fp16

CPU = torch.device("cpu")
WINDOW = LengthPolicy(long_sequences="window", max_length=400)
# Of different sizes: if a batch's memory were freed too early, the next one would overwrite it.
LENGTHS = [1000, 300, 40, *range(700, 20, -17), 3, 900]
SHAPES = {
    Esm2: Esm2Architecture(3, 320, 20, 1280),
    Esm1b: Esm1bArchitecture(2, 640, 10, 2560, embedding_norm=True),
    Esmc: EsmcArchitecture(2, 960, 15, 2560),
    DnabertS: DnabertArchitecture(2, 768, 12, 3072, 30),
    # Attention is wider than a row, and a product of it is not of the row's width.
    T5: ProtT5Architecture(2, 512, 16, 2048, 128, "relu", 32, 128, 128),
}


@pytest.fixture(autouse=True)
def device(card):
    return torch.device("cuda")


@pytest.fixture(params=SHAPES, ids=lambda kind: kind.__name__)
def model(request):
    torch.manual_seed(5)
    shape = SHAPES[request.param]
    return request.param(shape, shape.layers).eval().requires_grad_(False)


@pytest.fixture(params=["fp32", "fp16", "bf16"])
def dtype(request, device):
    if request.param != "fp32" and not should_use_fp16(device, EnvConfig.from_environ({})):
        pytest.skip("this CUDA device is older than Ampere: it computes in fp32 only")
    return DTYPES[request.param]


def random_residues():
    letters, choice = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", np.uint8), np.random.default_rng(3)
    return [choice.choice(letters, length).tobytes() for length in LENGTHS]


def pack_all(model, device, dtype, budget, backwards):
    filling = choose_filling(device, model.architecture.width, dtype)
    collate = VarlenCollator(ResidueTokenizer(ESM).encode_all, WINDOW, filling)
    residues, order = random_residues(), np.arange(len(LENGTHS))[:: -1 if backwards else 1]
    tokens = WINDOW.model_tokens(np.array(LENGTHS)[order])
    for start, stop in pairwise(plan_batches(tokens, budget).tolist()):
        own = order[start:stop]
        batch = collate(RawBatch(own, [residues[row] for row in own]))
        yield batch.pin_memory() if device.type == "cuda" else batch


def embed(
    model,
    device,
    folder,
    *,
    dtype=torch.float32,
    kernels=PLAIN,
    budget=2048,
    backwards=False,
    graphed=False,
):
    """(N, D) rows, and the token rows, of all sequences, in the order of LENGTHS.

    graphed: with the model's CUDA graphs, if it has any.
    """
    digests = np.arange(16 * len(LENGTHS), dtype=np.uint16).view(np.uint8)[: 16 * len(LENGTHS)]
    logger = logging.getLogger("seqembed.tests")
    tracker = FailureTracker(folder, digests.reshape(-1, 16), str, logger)
    tracker.start(range(len(LENGTHS)), lambda: None)
    wanted = Outputs(
        pooling="mean",
        specials=Specials(),
        pools_specials=True,
        per_residue=True,
        storage="float32",
    )
    model = copy.deepcopy(model).to(device, dtype)
    model.kernels = kernels
    rounds, options = [None], {"token_budget": budget, "streams": 1, "threads": 1}
    if graphed and (
        graphs := open_graphs(model, block_rows(model.architecture.width, dtype.itemsize), logger)
    ):
        # The first round shows which buckets there are, the second one takes their graphs.
        rounds = [graphs, graphs]
    for graphs in rounds:
        runner = AsyncInferenceRunner(
            model, device, wanted, tracker, lambda: model, **options, graphs=graphs
        )
        rows, residues = {}, {row: [] for row in range(len(LENGTHS))}
        batches = pack_all(model, device, dtype, budget, backwards)
        # As in a worker, a thread takes page-locked memory while graphs are captured.
        for part in runner.run(prefetch(batches, 2) if device.type == "cuda" else batches):
            rows |= zip(part.positions.tolist(), part.rows, strict=True)
            for row, tokens in part.residues:
                residues[row].append(tokens)
    assert sorted(rows) == [*residues] and not tracker.given_up
    assert rounds == [None] or graphs._graphs._launches
    return np.stack([rows[row] for row in residues]), np.concatenate(sum(residues.values(), []))


def test_a_gpus_batches_are_a_cpus_in_page_locked_memory(tmp_path):
    sequences = make_sequences([700, *range(90, 50, -1)])
    index = make_project(tmp_path, tmp_path / "no model", sequences).index()
    tokens = WINDOW.last_pass(np.array([*map(len, sequences)]), 900)
    bounds = plan_batches(tokens, 900)
    passes = plan_passes(bounds, np.arange(len(bounds) - 1), np.ones(len(tokens), np.int64), 2)
    digests = read_shard_index(index).digests
    dataset = IndexBasedDataset(index, digests, np.arange(len(tokens)), bounds, passes, 2)
    collator = VarlenCollator(ResidueTokenizer(ESM).encode_all, WINDOW)
    found, expected = (
        list(create_async_dataloader(dataset, collator, torch.device(name)))
        for name in ("cuda", "cpu")
    )
    assert len(found) == len(expected) > 3
    for ours, plain in zip(found, expected, strict=True):
        assert ours.tokens.is_pinned() and ours.packing.cu_seqlens.is_pinned()
        assert ours.pin_memory() is ours and not plain.tokens.is_pinned()
        assert torch.equal(ours.tokens, plain.tokens) and ours.windows == plain.windows
        assert ours.packing.bounds == plain.packing.bounds


def test_a_gpu_gives_the_rows_of_the_cpu(model, device, tmp_path):
    expected = embed(model, CPU, tmp_path)
    for kernels in (PLAIN, FUSED):
        found = embed(model, device, tmp_path, kernels=kernels)
        for own, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(own, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kernels", [PLAIN, FUSED])
def test_rows_have_the_same_bits_whatever_the_budget_and_the_order(
    model, device, dtype, kernels, tmp_path
):
    def bits(budget, backwards):
        how = {"dtype": dtype, "kernels": kernels, "budget": budget, "backwards": backwards}
        return [rows.tobytes() for rows in embed(model, device, tmp_path, **how)]

    first = bits(2048, False)
    for budget, backwards in [(2048, False), (8192, False), (32_768, False), (8192, True)]:
        assert bits(budget, backwards) == first, (budget, backwards)
    with_graphs = embed(model, device, tmp_path, dtype=dtype, kernels=kernels, graphed=True)
    assert [rows.tobytes() for rows in with_graphs] == first


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_fused_steps_are_as_near_to_fp32_as_plain_ones(name, model, device, tmp_path):
    if not should_use_fp16(device, EnvConfig.from_environ({})):
        pytest.skip("this CUDA device is older than Ampere: it computes in fp32 only")
    exact = embed(model, device, tmp_path)[0]
    plain, fused = (
        np.square(embed(model, device, tmp_path, dtype=DTYPES[name], kernels=k)[0] - exact).mean()
        for k in (PLAIN, FUSED)
    )
    assert fused**0.5 <= 1.1 * plain**0.5
