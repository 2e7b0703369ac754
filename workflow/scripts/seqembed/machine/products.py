"""Matrix products of a CPU that give the same bits on any number of threads."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Intel's MKL, which PyTorch multiplies with, divides the product of a small batch among threads in
# several ways, with other last bits each. Its strict mode does not ("Obtaining Numerically
# Reproducible Results", oneMKL developer guide), and gives the bits of one thread (measured).
VARIABLE, STRICT = "MKL_CBWR", "AUTO,STRICT"


def keep_products_equal(environ: MutableMapping[str, str], cpuinfo: Path = CPUINFO) -> None:
    """Ask MKL for its strict mode, on Intel's processors; what the user set stays.

    MKL reads the variable once: call this before the first product.
    """
    if cpuinfo.exists() and "GenuineIntel" in cpuinfo.read_text(encoding="utf-8"):
        environ.setdefault(VARIABLE, STRICT)
