"""Choose the precision in which a model computes on a device."""

from __future__ import annotations

import torch

from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError, DeviceError
from seqembed.kernels.choice import OLDEST_CAPABILITY
from seqembed.machine.processor import read_processor
from seqembed.models.families import Half
from seqembed.settings.request import AskedPrecision, Precision

CARD = "an NVIDIA GPU of compute capability 8.0 (Ampere) or newer"
# The dtype of weights and activations.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# On a CPU without these instructions, PyTorch converts bf16 to fp32 and back, which is slower.
BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}


def should_use_fp16(device: torch.device, environment: EnvConfig) -> bool:
    """Whether the device can compute in fp16, and SEQEMBED_DISABLE_FP16 allows fp16."""
    return not environment.disable_fp16 and _obstacle("fp16", device) is None


def resolve_precision(
    asked: AskedPrecision,
    device: torch.device,
    environment: EnvConfig,
    half: Half,
) -> Precision:
    """Return the precision to compute in.

    half: Family.half. `auto` is that precision if should_use_fp16(): what computes in fp16 can
    compute in bf16, too. Otherwise it is fp32. Raises DeviceError if the device cannot compute in
    the asked precision, and ConfigError if fp16 is asked for and SEQEMBED_DISABLE_FP16 forbids it.
    """
    if asked == "auto":
        return half if should_use_fp16(device, environment) else "fp32"
    if asked == "fp16" and environment.disable_fp16:
        raise ConfigError(
            "the environment variable SEQEMBED_DISABLE_FP16 forbids `precision: fp16`; unset the "
            "variable, or set `precision: fp32`"
        )
    if obstacle := _obstacle(asked, device):
        raise DeviceError(
            f"`precision: {asked}` cannot be used on {device}: {obstacle}; "
            "set `precision: auto` or `precision: fp32`, or run on a device that has what is needed"
        )
    return asked


def _obstacle(precision: Precision, device: torch.device) -> str | None:
    """Return what the device lacks for the precision, for a message; None if it lacks nothing."""
    if precision == "fp32":
        return None
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        old = (major, minor) < OLDEST_CAPABILITY
        return f"it needs {CARD}, and this one has {major}.{minor}" if old else None
    if precision == "fp16":
        return f"it needs {CARD}"
    if BF16_INSTRUCTIONS & read_processor("flags"):
        return None
    return f"it needs {CARD}, or a CPU with {' or '.join(sorted(BF16_INSTRUCTIONS))}"
