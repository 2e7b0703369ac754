"""What has to be set before any test multiplies matrices or imports Triton."""

from __future__ import annotations

import os

import torch

from seqembed.inference.streams import keep_products_equal

keep_products_equal(os.environ)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
