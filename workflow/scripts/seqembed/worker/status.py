"""Describes a worker's failure to its supervisor: small, and by the error's type."""

from __future__ import annotations

from typing import Any

import torch

from seqembed.errors import FreshProcessError, InterruptedRun, NonFiniteError, SeqembedError
from seqembed.inference.out_of_memory import is_out_of_memory

MAX_ERROR_CHARACTERS = 2000


def describe_error(error: Exception) -> dict[str, Any]:
    """The status of a run that ended with `error`, and what the supervisor may do about it."""
    message = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARACTERS]
    if isinstance(error, InterruptedRun):
        return {"status": "interrupted", "error_message": message}
    if isinstance(error, NonFiniteError):
        return {
            "status": "numerical_instability",
            "failed_batch": [error.position, error.position],
            "error": message,
        }
    status: dict[str, Any] = {"status": "failed", "error_message": message}
    return status | _failure(error)


def _failure(error: Exception) -> dict[str, Any]:
    if is_out_of_memory(error):
        return {"error": "cuda_oom", "retry_recommended": True, "reduce_batch_size": True}
    if isinstance(error, torch.AcceleratorError):
        return {"error": "cuda_runtime", "retry_recommended": True, "circuit_breaker": True}
    expected = isinstance(error, (SeqembedError, OSError))
    error_kind = "generic_error" if expected else "unexpected_error"
    return {"error": error_kind, "retry_recommended": isinstance(error, FreshProcessError)}
