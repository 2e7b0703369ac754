"""All that differs between the versions of libraries that pyproject.toml allows.

Imports no library before it is asked about: few programs need them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any


def find_http_error() -> type[BaseException]:
    """Return the base class of the errors of the library by which huggingface_hub speaks HTTP.

    The library is httpx for huggingface_hub 1, and httpx2 for huggingface_hub 2.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


@cache
def ask_for_one_split(attention: Callable[..., Any]) -> dict[str, Any]:
    """Return the keyword arguments by which `attention` computes a sequence in one split.

    attention: PyTorch's varlen_attn, which takes a number of splits from PyTorch 2.12 on. Before,
    there is none to give.
    """
    return {"num_splits": 1} if "num_splits" in inspect.signature(attention).parameters else {}
