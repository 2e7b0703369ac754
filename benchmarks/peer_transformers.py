"""A peer: a model of Hugging Face's transformers, in one of four ways to make batches of sequences.

`packed` lays the sequences of a batch end to end. transformers takes their bounds if its attention
can use them, which FlashAttention 2 does; where the package flash_attn is missing, PyTorch's own
FlashAttention 2 stands in, which transformers calls as it calls any registered attention.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import batching
import contest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AttentionInterface,
    AutoConfig,
    BatchEncoding,
    EsmcModel,
    EsmcTokenizer,
    EsmModel,
    EsmTokenizer,
    T5EncoderModel,
)

UNSORTED = 16
ORDERS = ("sorted", "unsorted", "single", "packed")
FLASH, OWN = "flash_attention_2", "varlen_of_pytorch"
# The tokens of residues in ProtT5 and Ankh, from number 3 on. ProtT5's authors put X for rare ones.
T5_LETTERS, T5_PAD, T5_EOS, T5_UNKNOWN = b"ALGVSREDTIPKFQNYMHWCXBOUZ", 0, 1, 2
PROT_T5_SIZE, PROT_T5_RARE = 128, b"UZOB"


class T5Tokens:
    """Tokens of a T5, as transformers' tokenizers return them; model: its folder."""

    cls_token_id, eos_token_id = None, T5_EOS

    def __init__(self, model: Path) -> None:
        ids = {letter: 3 + number for number, letter in enumerate(T5_LETTERS)}
        if AutoConfig.from_pretrained(model).vocab_size == PROT_T5_SIZE:
            ids |= dict.fromkeys(PROT_T5_RARE, ids[ord("X")])
        self._ids = bytes(ids.get(letter, T5_UNKNOWN) for letter in range(256))

    def __call__(self, sequences: Sequence[str], **_: object) -> BatchEncoding:
        tokens = [
            torch.tensor([*residues.encode().translate(self._ids), T5_EOS])
            for residues in sequences
        ]
        padded = pad_sequence(tokens, batch_first=True, padding_value=T5_PAD)
        return BatchEncoding({"input_ids": padded, "attention_mask": (padded != T5_PAD).long()})


class Kind(NamedTuple):
    """How models of a model_type in config.json are made, and sequences read.

    tokenizer: takes the model's folder. specials: the special tokens of a sequence. cast: whether
    all weights are cast once more: transformers leaves some of a T5's in fp32.
    """

    model: Any
    options: dict[str, bool]
    tokenizer: Callable[[Path], Any]
    specials: int = 2
    cast: bool = False


KINDS = {
    "esm": Kind(EsmModel, {"add_pooling_layer": False}, EsmTokenizer.from_pretrained),
    "esmc": Kind(EsmcModel, {}, EsmcTokenizer.from_pretrained),
    "t5": Kind(T5EncoderModel, {}, T5Tokens, specials=1, cast=True),
}


def plan(order: str, lengths: Sequence[int], budget: int) -> list[list[int]]:
    """The places in `lengths` of each batch's sequences; lengths: their tokens."""
    numbers = list(range(len(lengths)))
    if order == "packed":
        return batching.packed_batches(lengths, budget)
    if order == "sorted":
        return batching.padded_batches(lengths, budget)
    size = UNSORTED if order == "unsorted" else 1
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def embed(
    model: Any, tokenizer: Any, sequences: Sequence[str], batch: Sequence[int]
) -> contest.Embedded:
    chosen = [sequences[number] for number in batch]
    inputs = tokenizer(chosen, padding=True, return_tensors="pt").to(model.device)
    hidden = model(**inputs).last_hidden_state
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    counted = mask.bool()
    for special in {tokenizer.cls_token_id, tokenizer.eos_token_id} - {None}:
        counted &= tokens != special
    rows = contest.mean_rows(hidden, counted)
    return contest.Embedded(rows, int(mask.sum()), mask.numel())


def embed_packed(
    model: Any, tokenizer: Any, sequences: Sequence[str], batch: Sequence[int]
) -> contest.Embedded:
    """Embed a batch without padding: one row of tokens, whose positions begin anew."""
    encoded = tokenizer([sequences[number] for number in batch])["input_ids"]
    lengths = torch.tensor([len(own) for own in encoded])
    bounds = torch.tensor([*accumulate(map(len, encoded), initial=0)], dtype=torch.int32)
    tokens = torch.tensor([token for own in encoded for token in own])
    places = torch.arange(len(tokens)) - bounds[:-1].repeat_interleave(lengths)
    bounds, longest = bounds.to(model.device), int(lengths.max())
    hidden = model(
        input_ids=tokens[None].to(model.device),
        position_ids=places[None].to(model.device),
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=longest,
        max_length_k=longest,
    ).last_hidden_state[0]
    return contest.Embedded(packed_means(hidden, lengths), len(tokens), len(tokens))


def packed_means(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The float32 means, (n, D) on the CPU, of each sequence's rows but its first and last."""
    bounds = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    counted = torch.ones(len(hidden), 1)
    counted[bounds[:-1]] = counted[bounds[1:] - 1] = 0
    owner = torch.arange(len(lengths)).repeat_interleave(lengths).to(hidden.device)
    sums = hidden.new_zeros(len(lengths), hidden.shape[1], dtype=torch.float32)
    sums.index_add_(0, owner, hidden.float() * counted.to(hidden.device))
    return sums.cpu() / (lengths - 2)[:, None]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """PyTorch's attention over one row of packed sequences, as transformers calls it."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if q.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        bounds = cu_seq_lens_q
        out = varlen_attn(q, k, v, bounds, bounds, max_length_q, max_length_q, scale=scaling)
        return out[None], None
    # No varlen on a CPU: one sequence after another.
    parts = [
        scaled_dot_product_attention(*(x[:, :, a:b] for x in (query, key, value)), scale=scaling)
        for a, b in pairwise(cu_seq_lens_q.tolist())
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def choose_attention(options: argparse.Namespace) -> str:
    """The name of an attention that takes the bounds of packed sequences, and is there."""
    if options.device == "cuda" and importlib.util.find_spec("flash_attn"):
        return FLASH
    AttentionInterface.register(OWN, attend)
    return OWN


def main() -> None:
    parser: argparse.ArgumentParser = contest.parser(__doc__)
    parser.add_argument("--order", choices=ORDERS, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kind = KINDS[AutoConfig.from_pretrained(options.model).model_type]
    tokenizer, dtype = kind.tokenizer(options.model), contest.DTYPES[options.precision]
    packed = options.order == "packed"
    # Of a T5's, too, this one is the fastest on a CPU, or as fast as `eager` (measured).
    attention = choose_attention(options) if packed else "sdpa"
    model = kind.model.from_pretrained(
        options.model, **kind.options, attn_implementation=attention, dtype=dtype
    )
    model = model.to(options.device, dtype if kind.cast else None).eval()
    sequences = contest.read_sequences(options.fasta)
    lengths = [len(sequence) + kind.specials for sequence in sequences]
    compute = partial(embed_packed if packed else embed, model, tokenizer, sequences)
    contest.race(options, partial(plan, options.order, lengths), compute, {"attention": attention})


if __name__ == "__main__":
    main()
