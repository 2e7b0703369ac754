"""Describe to the supervisor the error that stopped a worker."""

from __future__ import annotations

from typing import Any

import torch

from seqembed.errors import FreshProcessError, InterruptedRun, NonFiniteError, explain
from seqembed.inference.failure_tracker import is_out_of_memory

MAX_ERROR_CHARACTERS = 2000


def describe_error(error: Exception) -> dict[str, Any]:
    """Return the status, without the rank, of a worker that ended with `error`.

    `status`: "interrupted", "numerical_instability" or "failed". After "failed", `error` is a kind
    ("cuda_oom": memory ran out), and `retry_recommended` says if a fresh worker may succeed. The
    message names the error's type only if the user cannot mend the error.
    """
    # The supervisor says what to do if memory ran out.
    line = None if is_out_of_memory(error) else explain(error)
    message = (line or f"{type(error).__name__}: {error}")[:MAX_ERROR_CHARACTERS]
    if isinstance(error, InterruptedRun):
        return {"status": "interrupted", "error_message": message}
    if isinstance(error, NonFiniteError):
        rows = [error.position, error.position]
        return {"status": "numerical_instability", "failed_batch": rows, "error": message}
    status = {"status": "failed", "error_message": message}
    if is_out_of_memory(error):
        return status | {"error": "cuda_oom", "retry_recommended": True, "reduce_batch_size": True}
    if isinstance(error, torch.AcceleratorError):
        broken = {"error": "cuda_runtime", "retry_recommended": True, "circuit_breaker": True}
        return status | broken
    kind = "unexpected_error" if line is None else "generic_error"
    return status | {"error": kind, "retry_recommended": isinstance(error, FreshProcessError)}
