"""How many tokens a batch holds, and how many batches a CPU computes at once.

Both follow from the memory that is free. No PyTorch is needed.
"""

from __future__ import annotations

import psutil

from seqembed.machine.control_groups import memory_limit
from seqembed.models.families import Architecture

# Of a batch, by device. A CPU's keeps what passes between steps in the caches of one core
# (measured); a GPU's is a guess that no card has confirmed yet.
TOKENS = {"cpu": 2048, "cuda": 16384}
# What batches may take of the memory that is free: estimates err, and others want some, too.
SHARE = 0.5


def bytes_a_token(architecture: Architecture, itemsize: int) -> int:
    """Roughly what a token takes while a layer is computed, in bytes.

    Its row, a normed one, query, key and value, and what attention gives and returns, each as wide
    as the model; and the feed-forward part's values, before and after its activation.
    """
    return itemsize * (8 * architecture.width + 2 * architecture.ffn_width)


def gpu_budget(token_bytes: int, free: int) -> int:
    """The tokens of a batch, where so many bytes of a GPU are free: whole ones of a CPU's."""
    step = TOKENS["cpu"]
    fitting = int(SHARE * free) // (token_bytes * step) * step
    return min(max(fitting, step), TOKENS["cuda"])


def cpu_streams(token_bytes: int, token_budget: int, threads: int, free: int) -> int:
    """How many batches are computed at once, at most one a thread, with so many bytes free."""
    return min(max(int(SHARE * free) // (token_bytes * token_budget), 1), threads)


def available_memory() -> int:
    """Bytes that this machine, and the control group that we are in, still have for us."""
    available: int = psutil.virtual_memory().available
    limit = memory_limit()
    if limit is None:
        return available
    # What the group holds beside us is mostly files, which the kernel drops where it must.
    ours: int = psutil.Process().memory_info().rss
    return max(0, min(available, limit - ours))
