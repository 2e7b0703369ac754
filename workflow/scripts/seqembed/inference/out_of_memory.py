"""Recognise PyTorch's out-of-memory errors."""

from __future__ import annotations

import torch

# PyTorch has no exception type of its own for the CPU (c10/core/impl/alloc_cpu.cpp).
CPU_ALLOCATOR = "DefaultCPUAllocator"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)


def free_memory(device: torch.device) -> None:
    """Return the memory that a GPU's allocator keeps for reuse, so that free blocks can join."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
