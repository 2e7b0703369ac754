"""What has to be set before any test multiplies matrices."""

from __future__ import annotations

import os

from seqembed.inference.streams import keep_products_equal

keep_products_equal(os.environ)
