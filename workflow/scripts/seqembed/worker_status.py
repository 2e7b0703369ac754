"""How a worker's failure is told to its supervisor: small, and by type."""

from __future__ import annotations

from typing import Any

import torch

from seqembed.errors import InterruptedRun, NonFiniteError, SeqembedError

MAX_ERROR_CHARACTERS = 2000
# PyTorch has no type of its own for a CPU that is out of memory (c10/core/impl/alloc_cpu.cpp).
CPU_ALLOCATOR = "DefaultCPUAllocator"


def describe_error(error: Exception) -> dict[str, Any]:
    """The status of a run that ended so: its kind, and what may be done about it."""
    message = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARACTERS]
    if isinstance(error, InterruptedRun):
        return {"status": "interrupted", "error_message": message}
    if isinstance(error, NonFiniteError):
        return {
            "status": "numerical_instability",
            "failed_batch": [error.positions[0], error.positions[-1]],
            "error": message,
        }
    status: dict[str, Any] = {"status": "failed", "error_message": message}
    return status | _failure(error)


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or CPU_ALLOCATOR in str(error):
        return {"error": "cuda_oom", "retry_recommended": True, "reduce_batch_size": True}
    if isinstance(error, torch.AcceleratorError):
        return {"error": "cuda_runtime", "retry_recommended": True, "circuit_breaker": True}
    expected = isinstance(error, (SeqembedError, OSError))
    error_kind = "generic_error" if expected else "unexpected_error"
    return {"error": error_kind, "retry_recommended": False}
