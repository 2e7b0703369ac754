"""Choose the plain or the fused steps: the one place that knows what a device needs for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from logging import Logger
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from seqembed.kernels import plain
from seqembed.kernels.compiler import find_compiler
from seqembed.kernels.names import FUSED, PLAIN

# On older GPUs, PyTorch has no fp16 or bf16 attention over packed sequences.
OLDEST_CAPABILITY = (8, 0)
CACHE_VARIABLE = "TRITON_CACHE_DIR"
# How Triton's errors begin if the GPU or its driver is at fault; their type is RuntimeError.
DRIVER_ERROR = "Triton Error [CUDA]"
# What such an error says if the driver is too old for the compiled kernel.
NOT_LOADED = ("kernel image", "unsupported toolchain")

OLDER = "this GPU is older than Ampere: it computes in fp32, by the plain steps, which are slower"
NOT_COMPILED = (
    "Triton cannot compile kernels here (%s): the plain steps are used, which are slower; install "
    "a C compiler and Python's header files, or a newer driver, then remove the recipe's file"
)
GPU_FAILED = (
    "the GPU failed while Triton's kernels were tried; if that happens again, write `CC=none` "
    "before the command: the plain steps are then used, which are slower"
)
OTHER_VALUES = (
    "Triton's kernels compute other values here than the plain steps (%s): the plain steps are "
    "used, which are slower; please report this line, with the versions of the GPU's driver, "
    "PyTorch and Triton"
)

# Computes a part of the model by the fused steps; returns how it differs from the same by the plain
# steps, None if it does not.
Trial = Callable[[], str | None]


class Steps(Protocol):
    """The functions of the modules `plain` and `fused`, which `plain` describes."""

    def rotate_(self, x: Tensor, cos: Tensor, sin: Tensor) -> None: ...

    def add_norm(self, x: Tensor, branch: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]: ...

    def pool(self, rows: Tensor, spans: Sequence[tuple[int, int]], largest: bool) -> Tensor: ...


def load_steps(kernels: str) -> Steps:
    """Return the module of the steps that a recipe's `kernels` names: PLAIN or FUSED."""
    if kernels == PLAIN:
        return plain
    from seqembed.kernels import fused

    return fused


def choose_kernels(
    device: torch.device,
    cache: Path,
    logger: Logger,
    begin_trial: Callable[[], Trial],
) -> str:
    """Return FUSED if Triton compiles kernels for the device that can be trusted, otherwise PLAIN.

    cache: the folder of compiled kernels if the user's home cannot be written. begin_trial:
    computes a part of the model by the plain steps. The log says why a GPU gets the plain steps.
    """
    if device.type != "cuda":
        return PLAIN
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        logger.info(OLDER)
        return PLAIN
    _set_cache(cache)
    # Kernels in a shared cache may do without one, until a model of another width needs another.
    if find_compiler() is None:
        logger.warning(NOT_COMPILED, "there is no C compiler")
        return PLAIN
    kernels = _try_fused(begin_trial(), logger)
    # PyTorch keeps the trial's memory for the weights; others need it too.
    torch.cuda.empty_cache()
    return kernels


def _set_cache(folder: Path) -> None:
    # Triton's own default is a folder in the home.
    if not os.access(os.path.expanduser("~"), os.W_OK):
        os.environ.setdefault(CACHE_VARIABLE, str(folder.absolute()))


def _try_fused(find_difference: Trial, logger: Logger) -> str:
    try:
        difference = find_difference()
    except torch.OutOfMemoryError:
        raise
    except torch.AcceleratorError:
        logger.warning(GPU_FAILED)
        raise
    except Exception as error:  # noqa: BLE001 (compilers fail in many ways, with as many types)
        if DRIVER_ERROR in str(error) and not any(words in str(error) for words in NOT_LOADED):
            logger.warning(GPU_FAILED)
            raise
        logger.warning(NOT_COMPILED, f"{type(error).__name__}: {error}".partition("\n")[0])
        return PLAIN
    if difference:
        logger.warning(OTHER_VALUES, difference)
        return PLAIN
    return FUSED
