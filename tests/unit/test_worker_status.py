"""A failure's status: small, and by the error's type."""

from __future__ import annotations

import json

import pytest
import torch

from seqembed.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    FreshProcessError,
    IndexFormatError,
    InterruptedRun,
    ModelError,
    NonFiniteError,
    NotTheSequencesError,
    RecipeError,
    ShardError,
    WorkerCrashError,
)
from seqembed.worker.status import describe_error

OUT_OF_MEMORY = {"error": "cuda_oom", "retry_recommended": True, "reduce_batch_size": True}
DEVICE = {"error": "cuda_runtime", "retry_recommended": True, "circuit_breaker": True}
EXPECTED = {"error": "generic_error", "retry_recommended": False}
FRESH = {"error": "generic_error", "retry_recommended": True}
UNEXPECTED = {"error": "unexpected_error", "retry_recommended": False}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OUT_OF_MEMORY),
        (MemoryError(), OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), OUT_OF_MEMORY),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), DEVICE),
        (RuntimeError("CUDA error"), UNEXPECTED),
        (RuntimeError("out of memory"), UNEXPECTED),
        (KeyError("x"), UNEXPECTED),
        (ValueError("x"), UNEXPECTED),
        (OSError(28, "No space left on device"), EXPECTED),
        (FreshProcessError("x"), FRESH),
        (WorkerCrashError("x"), EXPECTED),
        (NotTheSequencesError(9, "x", False), EXPECTED),
        *((kind("x"), EXPECTED) for kind in (ConfigError, DeviceError, ModelError, RecipeError)),
        *((kind("x"), EXPECTED) for kind in (CheckpointError, IndexFormatError, ShardError)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value["error"],
)
def test_failures_are_distinguished_by_type(error, expected):
    message = f"{type(error).__name__}: {error}"
    found = describe_error(error)
    assert found == {"status": "failed", "error_message": message} | expected


def test_an_interruption_is_no_failure():
    assert describe_error(InterruptedRun("stop")) == {
        "status": "interrupted",
        "error_message": "InterruptedRun: stop",
    }


def test_values_that_are_not_finite_name_the_row():
    found = describe_error(NonFiniteError(30, 10))
    assert (found["status"], found["failed_batch"]) == ("numerical_instability", [30, 30])
    assert "not finite for 10 sequences in a row" in found["error"]
    json.dumps(found)


@pytest.mark.parametrize("kind", [ValueError, InterruptedRun])
def test_long_texts_are_cut(kind):
    assert (
        describe_error(kind("x" * 5000))["error_message"] == f"{kind.__name__}: {'x' * 5000}"[:2000]
    )
