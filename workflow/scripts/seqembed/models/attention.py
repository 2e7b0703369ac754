"""Attention over a packed batch: sequences laid end to end, no padding.

Every implementation takes q, k, v of shape (T, heads, head_dim) and cu_seqlens of shape
(B + 1,), int32: sequence i holds rows cu_seqlens[i] to cu_seqlens[i + 1]. The query is scaled
already, so the scale here is 1. The result has q's shape and dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Attention = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def attend_per_sequence(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Attend sequence by sequence, on slices of the packed tensors; any device and dtype."""
    out = torch.empty_like(q)
    bounds = cu_seqlens.tolist()
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        # (length, heads, head_dim) -> (1, heads, length, head_dim): views, nothing is copied.
        one_q, one_k, one_v = (x[start:stop].transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        attended = scaled_dot_product_attention(one_q, one_k, one_v, scale=1.0)
        out[start:stop] = attended.squeeze(0).transpose(0, 1)
    return out


def attend_varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Attend to all sequences in one kernel (torch.nn.attention.varlen); CUDA, fp16 or bf16."""
    # Here, not above: it brings in all of torch._dynamo, seconds that a CPU worker has no use for.
    from torch.nn.attention.varlen import varlen_attn

    longest = int(cu_seqlens.diff().max())
    # One split: else the longest neighbour decides how a sequence's sums are ordered.
    out = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest, scale=1.0, num_splits=1)
    assert isinstance(out, Tensor)  # a tuple comes back only where auxiliary output is asked for
    return out


def choose_attention(device: torch.device, dtype: torch.dtype) -> Attention:
    """The implementation for this device and dtype; the one place that chooses."""
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        return attend_varlen
    return attend_per_sequence
