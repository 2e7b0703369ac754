"""What to do with sequences of more tokens than a model reads at once; no PyTorch is needed.

Tokens are counted without the two specials, which every window has around it. A window begins
every half max_length, and the last one ends with the sequence, so that each has max_length
tokens. A token's row is taken from the window in which the token is farthest from an edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ConfigError
from seqembed.flags import TRUNCATED, WINDOWED
from seqembed.models.encoders.tokenization import SPECIALS
from seqembed.models.prepared import PreparedModel

LongSequences = Literal["window", "truncate", "full", "error"]
Int64s = NDArray[np.int64]
# The schema has the same limit: no sequence is so long, and sums of lengths stay exact.
LONGEST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens start to stop of a sequence, of which keep_start to keep_stop get their rows here."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True, kw_only=True)
class LengthPolicy:
    """How to read sequences of more than `max_length` tokens.

    `full` has no limit: `max_length` is 0. Raises ConfigError for an unknown policy, or a limit
    that it cannot have.
    """

    long_sequences: LongSequences
    max_length: int

    def __post_init__(self) -> None:
        if self.long_sequences not in (choices := get_args(LongSequences)):
            message = f"one of {', '.join(choices)}, not {self.long_sequences!r}"
            raise ConfigError(f"long_sequences must be {message}")
        shortest = 0 if self.long_sequences == "full" else 1
        if not shortest <= self.max_length <= LONGEST:
            message = f"from {shortest} to {LONGEST:,}, not {self.max_length!r}"
            raise ConfigError(f"max_length must be {message}")

    def is_long(self, tokens: Int64s) -> NDArray[np.bool_]:
        """Which of (n,) sequences are over the limit, (n,) bool."""
        if self.long_sequences == "full":
            return np.zeros(len(tokens), bool)
        return tokens > self.max_length

    def kept(self, tokens: Int64s) -> Int64s:
        """How many tokens of each sequence get a row, (n,)."""
        if self.long_sequences == "truncate":
            return np.minimum(tokens, self.max_length)
        return tokens

    def windows(self, tokens: Int64s) -> Int64s:
        """How many windows each sequence has, (n,)."""
        if self.long_sequences != "window":
            return np.ones(len(tokens), np.int64)
        over = np.maximum(tokens - self.max_length, 0)
        return 1 - (-over // self._step)

    def model_tokens(self, tokens: Int64s) -> Int64s:
        """How many tokens of each sequence go through the model, specials included, (n,)."""
        windows = self.windows(tokens)
        whole = self.kept(tokens) + SPECIALS
        return np.where(windows > 1, windows * (self.max_length + SPECIALS), whole)

    def windows_a_pass(self, token_budget: int) -> int:
        """How many windows of one sequence fit in a token budget, at least one."""
        return max(1, token_budget // (self.max_length + SPECIALS))

    def passes(self, tokens: Int64s, token_budget: int) -> Int64s:
        """How often the model runs for each sequence, (n,): again where a budget is too small."""
        return -(-self.windows(tokens) // self.windows_a_pass(token_budget))

    def last_pass(self, tokens: Int64s, token_budget: int) -> Int64s:
        """How many tokens of each sequence are in its last pass, (n,), which others may share."""
        earlier = (self.passes(tokens, token_budget) - 1) * self.windows_a_pass(token_budget)
        return self.model_tokens(tokens) - earlier * (self.max_length + SPECIALS)

    def cut(self, tokens: int) -> list[Window]:
        """The windows of one sequence, in order; each kept token gets its row from one of them."""
        length = int(self.kept(np.array([tokens]))[0])
        count = int(self.windows(np.array([tokens]))[0])
        if count == 1:
            return [Window(0, length, 0, length)]
        starts = [min(i * self._step, length - self.max_length) for i in range(count)]
        # Half-way between the next window's start and this one's end, both edges are as far.
        turns = [
            (a + self.max_length + b + 1) // 2 for a, b in zip(starts[:-1], starts[1:], strict=True)
        ]
        limits = [0, *turns, length]
        return [
            Window(start, start + self.max_length, keep, stop)
            for start, keep, stop in zip(starts, limits[:-1], limits[1:], strict=True)
        ]

    def flags(self, tokens: Int64s) -> NDArray[np.uint8]:
        """The flags of the rows of (n,) sequences: WINDOWED, TRUNCATED or none; (n,) uint8."""
        flag = {"window": WINDOWED, "truncate": TRUNCATED}.get(self.long_sequences, 0)
        return np.where(self.is_long(tokens), flag, 0).astype(np.uint8)

    def refuse(
        self,
        tokens: Int64s,
        unit: str,
        describe: Callable[[Int64s], list[str]] | None = None,
    ) -> None:
        """With the policy `error`, raise ConfigError if there are sequences over the limit.

        unit: what the tokens are. describe: names rows; the message lists the first three.
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

    @property
    def _step(self) -> int:
        return (self.max_length + 1) // 2


def resolve_policy(
    asked: Literal["auto"] | LongSequences, max_length: Literal["auto"] | int, model: PreparedModel
) -> LengthPolicy:
    """The policy for this model: `auto` is `full` where it has no position limit, else `window`."""
    if asked == "auto":
        asked = "full" if model.facts.reads_whole else "window"
    limit = 0 if asked == "full" else model.longest(max_length)
    return LengthPolicy(long_sequences=asked, max_length=limit)
