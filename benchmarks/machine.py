"""What a race ran on: a speed says nothing without it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
# PyTorch computes bf16 by way of fp32 without one of these.
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
PACKAGES = ("torch", "transformers", "fair-esm", "numpy", "triton", "flash-attn")


def describe_machine() -> dict[str, Any]:
    facts = _cpu_facts()
    have = set(facts.get("flags", "").split())
    return {
        "cpu": facts.get("model name", platform.processor()),
        "cores": cores(),
        "flags": [flag for flag in FLAGS if flag in have],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def has_bf16() -> bool:
    return bool(BF16_FLAGS & set(_cpu_facts().get("flags", "").split()))


def _cpu_facts() -> dict[str, str]:
    """What the kernel says of a core; nothing where it does not say."""
    if not CPUINFO.exists():
        return {}
    lines = (line.partition(":") for line in CPUINFO.read_text(encoding="utf-8").splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
