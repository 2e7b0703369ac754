"""All that differs between the versions of libraries that pyproject.toml allows.

Imports no library before it is asked about: few programs need them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def find_http_error() -> type[BaseException]:
    """Return the base class of the errors of the library by which huggingface_hub speaks HTTP.

    The library is httpx for huggingface_hub 1, and httpx2 for huggingface_hub 2.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def ask_for_one_split(arguments: Collection[str]) -> dict[str, Any]:
    """Return the keyword arguments by which PyTorch's attention computes a sequence in one split.

    arguments: the names of all that this attention takes. PyTorch 2.11 has none for the splits.
    2.12 has one, but its FlashAttention-2 refuses it ("num_splits requires FA3"). FlashAttention-2
    of neither version splits a sequence of a packed batch.
    """
    import torch

    # A vendor's 2.13.0a0 counts as 2.13.
    release = tuple(map(int, torch.__version__.split(".")[:2]))
    takes = "num_splits" in arguments and release >= (2, 13)
    return {"num_splits": 1} if takes else {}
