"""A failure's status: small, and by the error's type."""

from __future__ import annotations

import json

import pytest
import torch

from seqembed import errors
from seqembed.worker.end_status import describe_error

OUT_OF_MEMORY = {"error": "cuda_oom", "retry_recommended": True, "reduce_batch_size": True}
DEVICE = {"error": "cuda_runtime", "retry_recommended": True, "circuit_breaker": True}
EXPECTED = {"error": "generic_error", "retry_recommended": False}
FRESH = {"error": "generic_error", "retry_recommended": True}
BROKEN = (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError, RuntimeError)
BROKEN += (KeyError, ValueError)
UNEXPECTED = {"error": "unexpected_error", "retry_recommended": False}
OURS = [errors.CheckpointError, errors.ConfigError, errors.DeviceError, errors.IndexFormatError]
OURS += [errors.ModelError, errors.RecipeError, errors.ShardError, errors.WorkerCrashError]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OUT_OF_MEMORY),
        (MemoryError(), OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), OUT_OF_MEMORY),
        (RuntimeError("Triton Error [CUDA]: out of memory"), OUT_OF_MEMORY),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), DEVICE),
        (RuntimeError("CUDA error"), UNEXPECTED),
        (RuntimeError("out of memory"), UNEXPECTED),
        (KeyError("x"), UNEXPECTED),
        (ValueError("x"), UNEXPECTED),
        (OSError(28, "No space left on device"), EXPECTED),
        (errors.FreshProcessError("x"), FRESH),
        (errors.NotTheSequencesError(9, "x", False), EXPECTED),
        *((kind("x"), EXPECTED) for kind in OURS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value["error"],
)
def test_failures_are_distinguished_by_type(error, expected):
    message = f"{type(error).__name__}: {error}" if isinstance(error, BROKEN) else str(error)
    message += "; make room on its disk" if isinstance(error, OSError) else ""
    found = describe_error(error)
    assert found == {"status": "failed", "error_message": message} | expected


def test_an_interruption_is_no_failure():
    assert describe_error(errors.InterruptedRun("stop")) == {
        "status": "interrupted",
        "error_message": "stop",
    }


def test_values_that_are_not_finite_name_the_row():
    found = describe_error(errors.NonFiniteError(30, 10))
    assert (found["status"], found["failed_batch"]) == ("numerical_instability", [30, 30])
    assert "not finite for 10 sequences in a row" in found["error"]
    json.dumps(found)


@pytest.mark.parametrize("kind", [ValueError, errors.InterruptedRun])
def test_long_texts_are_cut(kind):
    message = describe_error(kind("x" * 5000))["error_message"]
    assert len(message) == 2000 and message.endswith("x")
