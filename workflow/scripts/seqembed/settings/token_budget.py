"""How many tokens a batch holds, and how many batches a CPU computes at once, by free memory."""

from __future__ import annotations

import psutil

from seqembed.machine.control_groups import memory_limit
from seqembed.models.families import Architecture

# The most tokens of a batch, by device. On a CPU such a batch stays in the caches of one core
# (measured); for a GPU no card has confirmed the number yet.
TOKENS = {"cpu": 2048, "cuda": 16384}
# The part of the free memory that batches may take: the estimates are rough.
SHARE = 0.5


def bytes_a_token(architecture: Architecture, itemsize: int) -> int:
    """Return roughly the bytes that a token takes while a layer is computed.

    These are eight vectors as wide as the model, such as query, key and value, and the
    feed-forward part's values before and after the activation.
    """
    return itemsize * (8 * architecture.width + 2 * architecture.ffn_width)


def gpu_budget(token_bytes: int, free: int) -> int:
    """Return the largest token budget that fits in `free` bytes, a multiple of the CPU's."""
    step = TOKENS["cpu"]
    fitting = int(SHARE * free) // (token_bytes * step) * step
    return min(max(fitting, step), TOKENS["cuda"])


def cpu_streams(token_bytes: int, token_budget: int, threads: int, free: int) -> int:
    """Return how many batches to compute at once in `free` bytes: from 1 to `threads`."""
    return min(max(int(SHARE * free) // (token_bytes * token_budget), 1), threads)


def available_memory() -> int:
    """Return the bytes of memory that this process can still get."""
    available: int = psutil.virtual_memory().available
    limit = memory_limit()
    if limit is None:
        return available
    # The rest of what the group holds is mostly cached files, which the kernel can drop.
    own: int = psutil.Process().memory_info().rss
    return max(0, min(available, limit - own))
