"""Call FlashAttention over packed sequences.

PyTorch's public function torch.nn.attention.varlen.varlen_attn imports torch._dynamo and sympy,
which takes a worker seconds. So the operator is called that this function calls: it is private, and
its arguments are looked up before the first call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from seqembed.versions import ask_for_one_split

# The operator's arguments that are given by position, in PyTorch 2.11 to 2.13.
ARGUMENTS = (
    *("query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k"),
    *("dropout_p", "is_causal", "return_debug_mask"),
)


def attend_packed(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
    """Return attention's rows for all sequences of a packed batch, at once, on a GPU.

    q, k, v, and the result: (T, heads, head_dim), float16 or bfloat16; q is scaled already.
    cu_seqlens: (B + 1,) int32, where the sequences begin and end. longest: the number of tokens of
    the longest sequence.
    """
    where = (cu_seqlens, cu_seqlens, longest, longest)
    if (options := find_options()) is None:
        return _attend_by_public_function(q, k, v, *where)
    operator = torch.ops.aten._flash_attention_forward
    rows: Tensor = operator(q, k, v, *where, 0.0, False, False, scale=1.0, **options)[0]
    return rows


@cache
def find_options() -> dict[str, int] | None:
    """Return the operator's options in this version of PyTorch; None if it has other arguments."""
    try:
        names = [x.name for x in torch.ops.aten._flash_attention_forward.default._schema.arguments]
    except AttributeError:
        return None
    if names[: len(ARGUMENTS)] != [*ARGUMENTS] or "scale" not in names:
        return None
    # With more splits, the length of the longest sequence would change the order of all sums.
    return ask_for_one_split(names)


def _attend_by_public_function(q: Tensor, k: Tensor, v: Tensor, *where: Tensor | int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    options = ask_for_one_split(signature(varlen_attn).parameters)
    call: Callable[..., Any] = varlen_attn
    rows: Tensor = call(q, k, v, *where, scale=1.0, **options)
    return rows
