"""About how much memory a worker takes, counted from the sizes of its model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from described_models import dna_model, protein_model, t5_model
from known_files import KNOWN_RECIPE

from seqembed.kernels.names import FUSED, PLAIN
from seqembed.look.memory import WAITING_BYTES, count_weights, plan_memory
from seqembed.models.architectures import Esm2Architecture, ProtT5Architecture
from seqembed.models.load import load_prepared
from seqembed.models.prepared import read_prepared
from seqembed.settings.recipe import Recipe
from seqembed.settings.token_budget import bytes_a_token

ESM2_650M = Esm2Architecture(layers=33, width=1280, heads=20, ffn_width=5120)
RECIPE = replace(KNOWN_RECIPE, layer=1)
ON_GPU = replace(RECIPE, device="cuda", precision="fp16")


def plan_host(recipe: Recipe = RECIPE, threads: int = 1, rows: int = 0) -> int:
    return plan_memory(protein_model(), recipe, 100_000, threads, longest=1024, rows=rows).host


def test_weights_are_those_of_the_encoder(prepared_model):
    model = read_prepared(prepared_model)
    for layer in (1, model.architecture.layers):
        encoder = load_prepared(prepared_model, layer, torch.float32, torch.device("cpu"))
        held = sum(weight.numel() for weight in encoder.parameters())
        assert count_weights(model.architecture, layer) == pytest.approx(held, rel=0.06)


def test_weights_of_known_sizes_are_right():
    assert count_weights(ESM2_650M, 33) == pytest.approx(651e6, rel=0.01)
    sizes = {"head_width": 128, "activation": "relu", "buckets": 32, "max_distance": 128}
    prot_t5 = ProtT5Architecture(24, 1024, 32, 16384, **sizes, vocabulary=128)
    assert count_weights(prot_t5, 24) == pytest.approx(1208e6, rel=0.01)


def test_batches_and_waiting_rows_take_memory_on_a_cpu():
    small, one = plan_host(), plan_host(threads=2)
    assert one > small > 300_000_000
    assert plan_memory(protein_model(), RECIPE, 512, 1, longest=0, rows=0).host < small
    assert plan_host(rows=1_000) == small + 2_000
    assert plan_host(rows=1 << 40) == small + 2 * WAITING_BYTES
    assert plan_memory(protein_model(), RECIPE, 100_000, 1, longest=0, rows=0).card == 0


def test_a_card_computes_whole_blocks_however_small_the_budget():
    plans = {
        budget: plan_memory(protein_model(), ON_GPU, budget, 1, longest=0, rows=0).card
        for budget in (100, 16_384, "auto", 20_000, 32_768)
    }
    assert plans[100] == plans[16_384] == plans["auto"] < plans[20_000] == plans[32_768]
    exact = replace(ON_GPU, precision="fp32")
    assert plan_memory(protein_model(), exact, "auto", 1, longest=0, rows=0).card < plans["auto"]


@pytest.mark.parametrize("model", [protein_model(), dna_model(), t5_model()])
def test_a_card_holds_the_weights_and_a_batch(model):
    small = plan_memory(model, ON_GPU, 100, 1, longest=0, rows=0)
    large = plan_memory(model, ON_GPU, 100_000, 1, longest=0, rows=0)
    assert large.card > small.card > 600_000_000
    assert large.host == small.host


def test_a_long_sequence_takes_memory_with_its_biases_where_steps_are_plain():
    """Each of 2 heads has the biases of 256 queries for twice the tokens, in fp32."""
    short, long = (
        plan_memory(t5_model(), RECIPE, 2048, 1, longest=n, rows=0).host for n in (10_000, 20_000)
    )
    token = bytes_a_token(t5_model().architecture, 4) + 4 * 2 * 256 * 2
    assert long - short == 10_000 * token
    esm2 = protein_model()
    short, long = (
        plan_memory(esm2, RECIPE, 2048, 1, longest=n, rows=0).host for n in (2048, 20_000)
    )
    assert long - short == (20_000 - 2048) * bytes_a_token(esm2.architecture, 4)


@pytest.mark.parametrize("kernels", [PLAIN, FUSED])
def test_a_long_sequence_takes_whole_blocks_of_a_card(kernels):
    recipe = replace(ON_GPU, kernels=kernels)
    short, long = (
        plan_memory(t5_model(), recipe, "auto", 1, longest=n, rows=0).card for n in (32_768, 32_769)
    )
    token = bytes_a_token(t5_model().architecture, 2) + 4 * 2 * 256 * 2 * (kernels == PLAIN)
    assert long - short == 16_384 * token
