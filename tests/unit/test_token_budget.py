"""How much is computed at once, by the memory that is free, and on how many threads."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import psutil
import pytest
import torch
from families_table import TABLE
from torch.autograd.profiler import profile

from seqembed.models.architectures import DnabertArchitecture, Esm2Architecture, EsmcArchitecture
from seqembed.models.encoders import encoder
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.dnabert_s import DnabertS
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.encoders.esm2 import Esm2
from seqembed.models.encoders.esmc import Esmc
from seqembed.models.weights.checkpoint import LAYOUTS
from seqembed.settings.token_budget import available_memory, bytes_a_token, cpu_streams

ESM2 = Esm2Architecture(layers=1, width=320, heads=20, ffn_width=1280)
ESMC = EsmcArchitecture(layers=1, width=384, heads=6, ffn_width=1024)
DNA = DnabertArchitecture(layers=1, width=384, heads=6, ffn_width=1536, vocabulary=30)


def count_bytes_a_token(model: Encoder, tokens: int) -> float:
    """The bytes that the model's computation takes at the peak, for each of a batch's tokens."""
    ids, packing = torch.randint(4, 29, (tokens,)), Packing.of([32] * (tokens // 32))
    with torch.inference_mode(), profile(profile_memory=True) as profiler:
        model(ids, packing)
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(accumulate(changes)) / tokens


@pytest.mark.parametrize("member", [m for m in TABLE if m.true], ids=lambda member: member.name)
def test_a_token_takes_about_the_bytes_of_the_estimate(member, monkeypatch):
    """So few tokens go through the feed-forward part at once, as those of a block do on a GPU."""
    architecture = replace(member.true[0], layers=1)
    layout = next(layout for layout in LAYOUTS if layout.family.name == member.family)
    model = layout.encoder(architecture, 1).requires_grad_(False).eval()
    monkeypatch.setattr(encoder, "CPU_FFN_VALUES", 1024 * architecture.ffn_width)
    found, expected = count_bytes_a_token(model, 1536), bytes_a_token(architecture, 4)
    assert 0.8 * expected <= found <= 1.2 * expected
    assert architecture.biased == (model.biases(2) is not None)


@pytest.mark.parametrize(
    ("free", "streams"), [(0, 1), (2 * 2048 * 1000, 1), (3 * 4096 * 1000, 3), (10**12, 8)]
)
def test_cpu_streams_fit_in_half_the_free_memory(free, streams):
    assert cpu_streams(1000, 2048, 8, free) == streams


def test_the_control_group_limits_the_available_memory(monkeypatch):
    monkeypatch.setattr("seqembed.settings.token_budget.memory_limit", lambda: None)
    assert 0 < available_memory() <= psutil.virtual_memory().total
    monkeypatch.setattr("seqembed.settings.token_budget.memory_limit", lambda: 12_345)
    assert available_memory() == 0
    taken = psutil.Process().memory_info().rss
    monkeypatch.setattr("seqembed.settings.token_budget.memory_limit", lambda: taken + 100_000_000)
    assert 90_000_000 < available_memory() < 110_000_000


@pytest.mark.parametrize(
    ("rows", "threads", "even"),
    # 1,280 values a row are 40 times two vectors; 20 threads get 32,768 values each of 512 rows.
    [(2048, 2, 2), (2048, 3, 2), (2048, 7, 5), (2048, 64, 40), (512, 64, 20), (50, 8, 1)],
)
def test_each_thread_gets_whole_vectors_and_enough_of_them(rows, threads, even):
    assert Esm2(ESM2, 1).even_threads(rows, threads) == even


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "make", [lambda: Esm2(ESM2, 1), lambda: DnabertS(DNA, 1), lambda: Esmc(ESMC, 1)]
)
def test_bits_are_those_of_one_thread(make, dtype):
    model = make().requires_grad_(False).eval().to(dtype)
    before = torch.get_num_threads()
    try:
        for rows in (131, 515, 917, 1025):
            tokens, packing = torch.randint(4, 29, (rows,)), Packing.of([rows])
            torch.set_num_threads(1)
            alone = model(tokens, packing)
            for threads in (2, 3, 7):
                torch.set_num_threads(model.even_threads(rows, threads))
                assert torch.equal(model(tokens, packing), alone), (rows, threads)
    finally:
        torch.set_num_threads(before)
