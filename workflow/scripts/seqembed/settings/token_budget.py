"""Estimate what batches need, and choose how many of them a CPU computes at once."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from seqembed.kernels.names import PLAIN
from seqembed.machine.control_groups import memory_limit
from seqembed.models.architectures import BIASED_QUERIES, Architecture

Tokens = TypeVar("Tokens", int, NDArray[np.int64])
# The tokens of a batch, by device. On a CPU, a batch of this size fits into the caches of one core
# (measured). On a GPU, it is what most models take: see architectures.block_rows().
TOKENS = {"cpu": 2048, "cuda": 16384}
# The share of the free memory that batches may take; less than all, as bytes_a_token is rough.
SHARE = 0.5


def whole_blocks(tokens: Tokens, block: int) -> Tokens:
    """Return the least multiple of `block` that holds `tokens`, which is an int or an array."""
    return -(-tokens // block) * block


def bytes_a_token(architecture: Architecture, itemsize: int) -> int:
    """Return an estimate of the bytes that one token takes while a layer is computed.

    Counted are what memory holds in the feed-forward part, where it is most: four vectors of the
    model's width (rows before the layer and after attention, each with its normed rows), query, key
    and value of all heads, and those of ffn_width before and after the activation. itemsize: the
    bytes of one value.
    """
    attended = architecture.heads * architecture.head_dim
    activated = architecture.ffn_vectors * architecture.ffn_width
    return itemsize * (4 * architecture.width + 3 * attended + activated)


def bytes_alone(architecture: Architecture, itemsize: int, tokens: int, kernels: str) -> int:
    """Return an estimate of the bytes that one sequence takes in a batch of its own.

    The plain steps hold biases too, if the model has them: those of BIASED_QUERIES queries, float32
    (Biases.strips in models/encoders/attention.py). tokens: of the sequence. kernels:
    Recipe.kernels. itemsize: as in bytes_a_token.
    """
    strips = 4 * architecture.heads * BIASED_QUERIES * 2 * tokens
    beside = strips if architecture.biased and kernels == PLAIN else 0
    return tokens * bytes_a_token(architecture, itemsize) + beside


def cpu_streams(token_bytes: int, token_budget: int, threads: int, free: int) -> int:
    """Return how many batches a CPU computes at once in `free` bytes: from 1 to `threads`."""
    return min(max(int(SHARE * free) // (token_bytes * token_budget), 1), threads)


def available_memory() -> int:
    """Return how many more bytes of memory this process can take, within its control group."""
    available: int = psutil.virtual_memory().available
    if (limit := memory_limit()) is not None:
        # What else counts against the limit is mostly cached files, which the kernel can drop.
        available = min(available, limit - psutil.Process().memory_info().rss)
    return max(0, available)
