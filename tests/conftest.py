"""What has to be set before any test multiplies matrices or imports Triton."""

from __future__ import annotations

import os
from typing import Any

import torch

from seqembed.inference.streams import keep_products_equal


def interpret_loaded_bounds() -> None:
    """Let Triton 3.6's interpreter take a `for` over a bound that was loaded, as 3.7's does."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_index_too(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patch_index_too


keep_products_equal(os.environ)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    interpret_loaded_bounds()
