"""Want of memory, as PyTorch tells of it."""

from __future__ import annotations

import torch

# PyTorch has no type of its own for a CPU that is out of memory (c10/core/impl/alloc_cpu.cpp).
CPU_ALLOCATOR = "DefaultCPUAllocator"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device, or of this machine, did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)


def free_memory(device: torch.device) -> None:
    """Give back what a GPU's allocator keeps at hand, so that smaller pieces may join."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
