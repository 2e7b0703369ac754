"""Try the fused steps on a GPU, before any row is computed by them.

Triton compiles kernels for each kind of GPU anew, and not all kinds can be tested. So a worker
computes one layer of the model's sizes by the fused and by the plain steps.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from seqembed.kernels.choice import Trial
from seqembed.kernels.names import FUSED, PLAIN
from seqembed.models.architectures import Architecture
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.weights.build import fill, make_unfilled

# Attention takes up to 64 tokens at once: several times as many, fewer, and a single one.
LENGTHS = (150, 33, 1)
# By how much a row may differ, as a share of the root mean square of all rows. That is at least
# twice what rounding to fp16 or bf16 changes in one layer of any family. In the families that take
# this precision by default, it is less than a lost key changes. (Measured in Triton's interpreter;
# for attention, by its formulas on a CPU.)
BOUNDS = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# Token ids that mean residues or pieces of DNA in all families.
FIRST_TOKEN, TOKENS = 5, 18


@torch.inference_mode()
def begin_trial(
    architecture: Architecture, dtype: torch.dtype, device: torch.device | str
) -> Trial:
    """Compute rows by the plain steps; return a function that tries the fused steps.

    It computes the same rows by these, and returns what differs; None if nothing does. The rows are
    those of one layer of the architecture's sizes, with random weights in `dtype`, and they are
    pooled. The kernels are those of the whole model, so that nearly none is compiled in vain.
    """
    model = make_layer(architecture, dtype, device)
    packing = Packing.of(LENGTHS).to(device)
    # A vocabulary of DNA may be smaller.
    words = len(model.get_parameter("embedding.weight"))
    tokens = (FIRST_TOKEN + torch.arange(packing.total, device=device) % TOKENS) % words
    expected = _compute(model, tokens, packing, PLAIN)

    @torch.inference_mode()
    def find_difference() -> str | None:
        found = _compute(model, tokens, packing, FUSED)
        for name, values in expected.items():
            apart = (found[name] - values).square().mean(1).max() / values.square().mean()
            share = apart.sqrt().item()
            # NaN is not within the bound, either.
            if not share <= BOUNDS[dtype]:
                return f"{name} differ by {100 * share:.2g}%"
        return None

    return find_difference


def make_layer(
    architecture: Architecture, dtype: torch.dtype, device: torch.device | str
) -> Encoder:
    """Return an encoder of one layer of these sizes, its weights random, in `dtype`."""
    with torch.random.fork_rng(devices=()):
        # A T5's biases are drawn as the encoder is made.
        torch.default_generator.manual_seed(0)
        model = make_unfilled(replace(architecture, layers=1), 1)
    generator = torch.Generator(device).manual_seed(0)
    weights = {}
    for name, weight in model.named_parameters():
        values = torch.randn(weight.shape, generator=generator, device=device)
        if weight.dim() > 1:
            values *= 0.5 * weight.shape[-1] ** -0.5
        else:
            values = 0.1 * values + (0 if name.endswith("bias") else 1)
        weights[name] = values.to(dtype)
    return fill(model, weights, device)


def _compute(model: Encoder, tokens: Tensor, packing: Packing, kernels: str) -> dict[str, Tensor]:
    """Return rows, and each sequence's mean and maximum, by the steps that `kernels` names."""
    model.kernels = kernels
    rows, spans = model(tokens, packing), [*pairwise(packing.bounds)]
    pool = model.steps.pool
    return {
        "rows": rows.float(),
        "means": pool(rows, spans, False),
        "maxima": pool(rows, spans, True),
    }
