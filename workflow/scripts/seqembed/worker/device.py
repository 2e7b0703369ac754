"""The device that a worker computes on: which one, its name, and its free memory."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from seqembed.errors import DeviceError
from seqembed.results.reader import join_names
from seqembed.settings.token_budget import available_memory


def choose_device(asked: Literal["auto", "cuda", "cpu"], logger: logging.Logger) -> torch.device:
    """Return the first GPU that CUDA_VISIBLE_DEVICES leaves to this process, or the CPU.

    asked: "auto" takes the CPU with a warning if there is no GPU; "cuda" raises DeviceError then.
    """
    if asked == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    reason, advice = "this PyTorch has no CUDA", "install a PyTorch that fits your driver"
    if torch.version.cuda:
        reason, advice = "PyTorch finds no CUDA device", "see whether `nvidia-smi` lists a GPU"
    if asked == "cuda":
        raise DeviceError(f"device is cuda, but {reason}; {advice}, or set `device: cpu`")
    logger.warning("%s: the CPU is used", reason)
    return torch.device("cpu")


def free_memory(device: torch.device) -> int:
    """Return how many bytes of the device's memory this process can still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


def add_name(device: torch.device, earlier: str) -> str:
    """Return the names of the GPUs in `earlier` and of this one, as one text; "" for a CPU."""
    if device.type == "cpu":
        return ""
    return join_names([earlier, torch.cuda.get_device_name(device)])
