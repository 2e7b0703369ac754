"""What Triton needs to compile kernels. Needs no PyTorch, and Triton only when it is called."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

COMPILERS = ("gcc", "clang")


def find_compiler() -> str | None:
    """Return the path of the C compiler that Triton would call, None if there is none.

    Triton takes the one in the variable CC, or looks for COMPILERS (triton/runtime/build.py).
    """
    named = os.environ.get("CC")
    return next(filter(None, map(shutil.which, [named] if named else COMPILERS)), None)


def hash_triton() -> None:
    """Compute the hash of Triton's own files, which Triton then keeps for this process.

    It is a part of each compiled kernel's name, and Triton reads 400 MB for it before the first
    kernel (triton/runtime/cache.py). Without Triton nothing happens.
    """
    with suppress(ImportError):
        from triton.runtime.cache import triton_key

        triton_key()
