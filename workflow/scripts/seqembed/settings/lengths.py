"""What to do with sequences of more tokens than a model reads at once; no PyTorch is needed.

Tokens are counted without the two special ones around every window. A window begins every half
max_length, and the last one ends with the sequence, so that each has max_length tokens. A token's
row is taken from the window in which the token is farthest from an edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ConfigError
from seqembed.flags import TRUNCATED, WINDOWED
from seqembed.models.encoders.tokenization import SPECIALS
from seqembed.models.prepared import PreparedModel
from seqembed.settings.request import AskedLongSequences, LongSequences, check_choice, check_whole

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of tokens, start to stop; rows are taken from keep_start to keep_stop alone."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True, kw_only=True)
class LengthPolicy:
    """How to read sequences of more than `max_length` tokens; with `full`, max_length is 0.

    Raises ConfigError for an unknown policy, or an impossible max_length.
    """

    long_sequences: LongSequences
    max_length: int

    def __post_init__(self) -> None:
        check_choice("long_sequences", self.long_sequences, get_args(LongSequences))
        check_whole("max_length", self.max_length, 0 if self.long_sequences == "full" else 1)

    def is_long(self, tokens: Int64s) -> NDArray[np.bool_]:
        """Return which of (n,) sequences have more tokens than max_length, (n,) bool."""
        return (tokens > self.max_length) & (self.long_sequences != "full")

    def kept(self, tokens: Int64s) -> Int64s:
        """Return how many tokens of each sequence get a row, (n,)."""
        truncate = self.long_sequences == "truncate"
        return np.minimum(tokens, self.max_length) if truncate else tokens

    def windows(self, tokens: Int64s) -> Int64s:
        """Return how many windows each sequence has, (n,)."""
        if self.long_sequences != "window":
            return np.ones(len(tokens), np.int64)
        over = np.maximum(tokens - self.max_length, 0)
        return 1 - (-over // ((self.max_length + 1) // 2))

    def model_tokens(self, tokens: Int64s) -> Int64s:
        """Return how many tokens, special ones included, the model reads of each sequence, (n,)."""
        windows = self.windows(tokens)
        whole = self.kept(tokens) + SPECIALS
        return np.where(windows > 1, windows * (self.max_length + SPECIALS), whole)

    def windows_a_pass(self, token_budget: int) -> int:
        """Return how many windows of one sequence fit in a token budget: at least one."""
        return max(1, token_budget // (self.max_length + SPECIALS))

    def passes(self, tokens: Int64s, token_budget: int) -> Int64s:
        """Return how often the model runs for each sequence, (n,)."""
        return -(-self.windows(tokens) // self.windows_a_pass(token_budget))

    def last_pass(self, tokens: Int64s, token_budget: int) -> Int64s:
        """Return how many tokens of each sequence are in the model's last run for it, (n,)."""
        earlier = (self.passes(tokens, token_budget) - 1) * self.windows_a_pass(token_budget)
        return self.model_tokens(tokens) - earlier * (self.max_length + SPECIALS)

    def cut(self, tokens: int) -> list[Window]:
        """Return the windows of one sequence, in order; each kept token is kept in one of them."""
        length, count = (int(of(np.array([tokens]))[0]) for of in (self.kept, self.windows))
        if count == 1:
            return [Window(0, length, 0, length)]
        step = (self.max_length + 1) // 2
        starts = [min(i * step, length - self.max_length) for i in range(count)]
        # Here a token is as far from the end of one window as from the start of the next.
        turns = [(a + self.max_length + b + 1) // 2 for a, b in pairwise(starts)]
        return [
            Window(start, start + self.max_length, *kept)
            for start, kept in zip(starts, pairwise([0, *turns, length]), strict=True)
        ]

    def flags(self, tokens: Int64s) -> NDArray[np.uint8]:
        """Return the flags of (n,) sequences' rows: WINDOWED, TRUNCATED or 0; (n,) uint8."""
        flag = {"window": WINDOWED, "truncate": TRUNCATED}.get(self.long_sequences, 0)
        return np.where(self.is_long(tokens), flag, 0).astype(np.uint8)

    def refuse(
        self, tokens: Int64s, unit: str, describe: Callable[[Int64s], list[str]] | None = None
    ) -> None:
        """With the policy `error`, raise ConfigError if a sequence is longer than max_length.

        unit: "residues" or "tokens". describe: returns names of rows, for the first three.
        """
        long = np.flatnonzero(self.is_long(tokens))
        if not len(long) or self.long_sequences != "error":
            return
        names = f"; the first are {', '.join(describe(long[:3]))}" if describe else ""
        raise ConfigError(
            f"{len(long):,} of {len(tokens):,} sequences are longer than {self.max_length:,} "
            f"{unit} (the longest has {int(tokens.max()):,}){names}; to embed them, set "
            "`embedding: {long_sequences: window}` or `truncate` (after --config: "
            "'embedding={long_sequences: window}'); else take them out, or raise "
            "`embedding: {max_length: ...}`"
        )


def resolve_policy(
    asked: AskedLongSequences, max_length: Literal["auto"] | int, model: PreparedModel
) -> LengthPolicy:
    """Return a model's policy; `auto` is `full` for a model without a limit, else `window`."""
    if asked == "auto":
        asked = "full" if model.facts.reads_whole else "window"
    limit = 0 if asked == "full" else model.longest(max_length)
    return LengthPolicy(long_sequences=asked, max_length=limit)
