"""Which precision a device computes in."""

from __future__ import annotations

from typing import Literal

import torch

from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError, DeviceError

AskedPrecision = Literal["auto", "fp32", "fp16"]
Precision = Literal["fp32", "fp16"]

# Attention over packed sequences has no fp16 kernel for cards older than Ampere.
OLDEST_CAPABILITY = (8, 0)
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}


def should_use_fp16(device: torch.device, environment: EnvConfig) -> bool:
    """Whether fp16 is possible on this device and not forbidden by SEQEMBED_DISABLE_FP16."""
    return not environment.disable_fp16 and _obstacle(device) is None


def resolve_precision(
    asked: AskedPrecision, device: torch.device, environment: EnvConfig
) -> Precision:
    """The precision to compute in.

    Raises DeviceError where fp16 is asked for and the device cannot do it, ConfigError where
    SEQEMBED_DISABLE_FP16 forbids it.
    """
    if asked == "auto":
        return "fp16" if should_use_fp16(device, environment) else "fp32"
    if asked == "fp16":
        _check_fp16(device, environment)
    return asked


def torch_dtype(precision: Precision) -> torch.dtype:
    """The dtype of weights and activations."""
    return DTYPES[precision]


def _check_fp16(device: torch.device, environment: EnvConfig) -> None:
    if environment.disable_fp16:
        raise ConfigError(
            "`precision: fp16` is asked for, and the environment variable "
            "SEQEMBED_DISABLE_FP16 forbids it; unset it, or set `precision: fp32`"
        )
    if obstacle := _obstacle(device):
        raise DeviceError(
            f"`precision: fp16` cannot be used on {device}: {obstacle}; "
            "set `precision: auto` or `fp32`, or run on such a card"
        )


def _obstacle(device: torch.device) -> str | None:
    """Why this device cannot compute in fp16; None where it can."""
    needed = ".".join(map(str, OLDEST_CAPABILITY))
    wanted = f"it needs an NVIDIA card of compute capability {needed} (Ampere) or newer"
    if device.type != "cuda":
        return wanted
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        return f"{wanted}, and this one has {capability[0]}.{capability[1]}"
    return None
