"""CUDA graphs on a card: the bits of passes without them, their memory, what a failure leaves."""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from threading import Event, Thread

import numpy as np
import pytest
import torch
from torch import Tensor

from seqembed.environment import EnvConfig
from seqembed.inference import graphs as graphs_module
from seqembed.inference.batches import PackedBatch, choose_filling, pack
from seqembed.inference.graphs import EncoderGraphs, choose_bucket, open_graphs
from seqembed.inference.streams import CudaStream
from seqembed.kernels.names import FUSED
from seqembed.models.architectures import (
    DnabertArchitecture,
    Esm2Architecture,
    EsmcArchitecture,
    block_rows,
)
from seqembed.models.encoders.dnabert_s import DnabertS
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.encoders.esm2 import Esm2
from seqembed.models.encoders.esmc import Esmc
from seqembed.settings.precision import DTYPES, should_use_fp16

DEVICE = torch.device("cuda")
LOGGER = logging.getLogger("seqembed.tests")
# Heads of 16, 24, 32 and 64 values.
SHAPES = {
    "Esm2 320": (Esm2, Esm2Architecture(3, 320, 20, 1280)),
    "Esm2 480": (Esm2, Esm2Architecture(2, 480, 20, 1920)),
    "Esm2 640": (Esm2, Esm2Architecture(2, 640, 20, 2560)),
    "Esmc 384": (Esmc, EsmcArchitecture(2, 384, 6, 1024)),
    "DnabertS 384": (DnabertS, DnabertArchitecture(2, 384, 6, 1536, 30)),
}
# The shortest and the longest sequences of batches, in tokens; the latter excluded.
RANGES = [(1000, 1024), (500, 1024), (200, 400), (3, 130), (3, 40), (900, 901), (3, 1024)]


@pytest.fixture(params=["fp16", "bf16", "fp32"])
def dtype(request, card):
    if request.param != "fp32" and not should_use_fp16(DEVICE, EnvConfig.from_environ({})):
        pytest.skip("this CUDA device is older than Ampere: it has no graphs")
    return DTYPES[request.param]


@pytest.fixture
def half(card):
    if not should_use_fp16(DEVICE, EnvConfig.from_environ({})):
        pytest.skip("this CUDA device is older than Ampere: it has no graphs")
    return torch.float16


def make_model(name: str, dtype: torch.dtype) -> Encoder:
    torch.manual_seed(7)
    kind, shape = SHAPES[name]
    model = kind(shape, shape.layers).eval().requires_grad_(False).to(DEVICE, dtype)
    model.kernels = FUSED
    return model


def graphs_of(model: Encoder) -> EncoderGraphs:
    weight = next(model.parameters())
    found = open_graphs(model, block_rows(model.architecture.width, weight.itemsize), LOGGER)
    assert found is not None
    return found


def make_batch(model: Encoder, seed: int, blocks: int = 1) -> PackedBatch:
    """A batch of `blocks` blocks of rows, its lengths in one of RANGES."""
    choice, weight = np.random.default_rng(seed), next(model.parameters())
    filling = choose_filling(DEVICE, model.architecture.width, weight.dtype)
    room, parts = blocks * filling.block - int(choice.integers(0, 300)), []
    low, high = RANGES[seed % len(RANGES)]
    while room >= high:
        parts.append(choice.integers(4, 24, int(choice.integers(low, high))))
        room -= len(parts[-1])
    return pack([], parts, filling)


@torch.inference_mode()
def rows_of(forward: Encoder | EncoderGraphs, batch: PackedBatch) -> Tensor:
    rows: Tensor = forward(batch.tokens.to(DEVICE), batch.packing.to(DEVICE))
    return rows.clone()


def compare(model: Encoder, found: EncoderGraphs, seeds: Sequence[int]) -> None:
    for seed in seeds:
        batch = make_batch(model, seed)
        assert torch.equal(rows_of(found, batch), rows_of(model, batch)), seed


def launches(found: EncoderGraphs) -> int:
    return len(found._graphs._launches) if found._graphs else 0


@pytest.fixture
def busy() -> Iterator[None]:
    """While a test runs, a thread takes page-locked memory and waits for events, as a worker's."""
    ended, kept = Event(), deque(maxlen=8)

    def work() -> None:
        stream = torch.cuda.Stream(DEVICE)
        while not ended.is_set():
            pinned = [torch.empty(1000 * n + 1).pin_memory() for n in range(1, 9)]
            with torch.cuda.stream(stream):
                kept.append([one.to(DEVICE, non_blocking=True) for one in pinned])
            done = torch.cuda.Event(blocking=True)
            done.record(stream)
            done.synchronize()
            del pinned

    thread = Thread(target=work)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.mark.parametrize("name", SHAPES)
def test_graphs_give_the_bits_of_passes_without(name, dtype, busy):
    model = make_model(name, dtype)
    found, seeds = graphs_of(model), [*range(40), *range(40)]
    compare(model, found, seeds)
    buckets = {choose_bucket(make_batch(model, seed).packing) for seed in seeds}
    assert launches(found) == len(buckets) > 4


def test_a_batch_of_several_blocks_has_no_graph(half):
    model = make_model("Esm2 320", half)
    found = graphs_of(model)
    for _ in range(3):
        batch = make_batch(model, 1, blocks=2)
        assert torch.equal(rows_of(found, batch), rows_of(model, batch))
    assert launches(found) == 0


def reserved() -> int:
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(DEVICE)


def test_graphs_share_the_memory_of_a_pass_and_give_it_back(half):
    model = make_model("Esm2 640", half)
    found = graphs_of(model)
    # The products' memory for the stream of captures is kept.
    compare(model, found, [0, 0])
    found.drop()
    before = reserved()
    compare(model, found, [0, 0])
    one = reserved() - before
    compare(model, found, [*range(14), *range(14)])
    assert launches(found) > 4
    assert 0 < reserved() - before < 1.5 * one
    found.drop()
    assert reserved() <= before
    compare(model, found, [0, 0, 0])
    assert launches(found) == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, ZeroDivisionError])
@pytest.mark.parametrize("call", [1, 2])
def test_an_error_in_a_capture_ends_graphs_only(call, error, half, monkeypatch, caplog):
    """Call 1 is the pass before the capture, call 2 the captured one, of the second graph."""
    model = make_model("Esm2 320", half)
    found, compute, calls = graphs_of(model), graphs_module._Graphs._compute, []
    compare(model, found, [0, 0, 0])

    def fail(*arguments: object) -> None:
        # What is kept of the arguments would keep the graphs.
        calls.append(None)
        if len(calls) == 1:
            torch.cuda._sleep(1 << 28)  # the pass still runs when the error comes
        compute(*arguments)
        if len(calls) == call:
            if error is ZeroDivisionError:
                raise error
            torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE)

    before, current = reserved(), torch.cuda.current_stream(DEVICE)
    monkeypatch.setattr(graphs_module._Graphs, "_compute", fail)
    compare(model, found, [3, 3, 3, 0])
    assert len(calls) == call and launches(found) == 0
    assert torch.cuda.current_stream(DEVICE) == current
    assert reserved() < before
    (message,) = caplog.messages
    assert error.__name__ in message and "no graph is used until this worker ends" in message


@torch.inference_mode()
def embed_after_a_refused_capture(batches: int) -> tuple[int, list[bool], list[int]]:
    """Compute a batch that often, while CUDA refuses the first capture.

    Returns how many passes graphs took; whether each time's rows are right; the bytes in use then.
    """
    model, computed, passes = make_model("Esm2 320", torch.float16), [], []
    found, stream, compute = graphs_of(model), CudaStream(DEVICE), graphs_module._Graphs._compute

    def wait_for_the_gpu(graphs: object, bounds: Tensor, longest: int) -> None:
        compute(graphs, bounds, longest)
        passes.append(None)
        if len(passes) == 2:
            bounds.tolist()

    graphs_module._Graphs._compute = wait_for_the_gpu
    batch, used = make_batch(model, 0), []
    expected = rows_of(model, batch)[::64].cpu()
    for _ in range(batches):
        taken = stream.submit(batch, lambda *given: (found(*given)[::64], None), alone=True)
        computed.append(torch.equal(taken.result()[0], expected))
        used.append(torch.cuda.memory_stats(DEVICE)["active_bytes.all.current"])
    stream.close()
    return len(passes), computed, used


def test_after_a_capture_that_cuda_refuses_batches_keep_no_memory(half):
    # PyTorch 2.11 takes such a capture for one that never ends.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        passes, right, used = process.submit(embed_after_a_refused_capture, 60).result()
    assert passes == 2 and all(right)
    assert used[-1] == used[9]
