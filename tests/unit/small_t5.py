"""Small T5 models with random weights, by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, T5Config, T5EncoderModel

SIZES = {"num_layers": 2, "d_model": 16, "num_heads": 2, "d_ff": 32, "d_kv": 4}
# The tokens that an Ankh 3 needs, in an order that no other model has.
ANKH3_TOKENS = ("<pad>", "</s>", "<unk>", "[S2S]", "[NLU]", *"YVWTSRQPNMLKIHGFEDCAX")


def small_t5(
    vocabulary: int = 128, kind: type[PreTrainedModel] = T5EncoderModel, **settings: Any
) -> PreTrainedModel:
    """A T5 of ProtT5's vocabulary, or of another size; kind: its class."""
    torch.manual_seed(2)
    return kind(T5Config(vocab_size=vocabulary, **SIZES | settings)).eval()


def ankh3_tokenizer(tokens: Sequence[str] = ANKH3_TOKENS, **ids: int) -> Tokenizer:
    """A tokenizer.json with these tokens in their order; ids: other ids of some."""
    numbers = {token: number for number, token in enumerate(tokens)}
    return Tokenizer(WordLevel(numbers | ids, unk_token="<unk>"))
