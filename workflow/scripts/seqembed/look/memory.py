"""About how much memory a worker takes; no PyTorch is needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from seqembed.models.architectures import Architecture, block_rows
from seqembed.models.prepared import PreparedModel
from seqembed.settings.recipe import Recipe
from seqembed.settings.token_budget import (
    TOKENS,
    available_memory,
    bytes_a_token,
    bytes_alone,
    cpu_streams,
    whole_blocks,
)

ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
# Python, PyTorch and the other libraries, resident on a CPU (measured).
PROCESS_BYTES = 350_000_000
# What a process takes beside a card, where the libraries of CUDA are loaded, and on the card.
CUDA_PROCESS_BYTES, CUDA_CONTEXT_BYTES = 2_500_000_000, 600_000_000
# The rows that wait for a checkpoint, as worker/checkpoint_writer.py limits them, twice while they
# are written.
WAITING_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """About how many bytes a worker takes: of main memory, and of its card; 0 without one."""

    host: int
    card: int


def count_weights(architecture: Architecture, layers: int) -> int:
    """Return about how many weights an encoder has up to a layer, without its small vectors."""
    attended = architecture.heads * architecture.head_dim
    matrices = 3 if architecture.ffn_vectors == 3 else 2
    layer = (
        4 * architecture.width * attended + matrices * architecture.width * architecture.ffn_width
    )
    vocabulary = getattr(architecture, "vocabulary", 0)
    return layers * layer + vocabulary * architecture.width


def plan_memory(
    model: PreparedModel,
    recipe: Recipe,
    token_budget: Literal["auto"] | int,
    threads: int,
    *,
    longest: int,
    rows: int,
) -> MemoryPlan:
    """Return what a worker takes.

    longest: LengthPolicy.longest_read() of its sequences; what is over the token budget is computed
    alone. rows: how many bytes of rows may wait for a checkpoint.
    """
    architecture, itemsize = model.architecture, ITEM_BYTES[recipe.precision]
    weights = itemsize * count_weights(architecture, recipe.layer)
    token_bytes = bytes_a_token(architecture, itemsize)
    alone = partial(bytes_alone, architecture, itemsize, kernels=recipe.kernels)
    waiting = 2 * min(rows, WAITING_BYTES)
    if recipe.device == "cuda":
        block = block_rows(architecture.width, itemsize)
        # A batch is filled up to whole blocks.
        budget = block if token_budget == "auto" else whole_blocks(token_budget, block)
        batches = max(2 * budget * token_bytes, alone(whole_blocks(longest, block)))
        card = CUDA_CONTEXT_BYTES + weights + batches
        return MemoryPlan(host=CUDA_PROCESS_BYTES + waiting, card=card)
    budget = TOKENS["cpu"] if token_budget == "auto" else token_budget
    streams = cpu_streams(token_bytes, budget, threads, available_memory())
    batches = max(streams * budget * token_bytes, alone(longest))
    return MemoryPlan(host=PROCESS_BYTES + weights + batches + waiting, card=0)
