"""What to do with sequences of more tokens than a model reads at once; no PyTorch is needed.

Tokens are counted without the special tokens, which are added before and after each window. A
window has max_length tokens, and the next window begins half of max_length later, or earlier if the
next window would go beyond the end of the sequence. Windows overlap: a token's row is taken from
the window in which the token is farthest from the window's ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ConfigError
from seqembed.flags import TRUNCATED, WINDOWED
from seqembed.models.prepared import PreparedModel
from seqembed.models.vocabularies import Specials
from seqembed.settings.request import AskedLongSequences, LongSequences, check_choices, check_whole

Int64s = NDArray[np.int64]

# The number of tokens at which attention costs as much as the rest of the model.
QUADRATIC_TOKENS = 3840


@dataclass(frozen=True, slots=True)
class Window:
    """The tokens [start, stop) of a sequence; the rows of [keep_start, keep_stop) are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True, kw_only=True)
class LengthPolicy:
    """How the model reads sequences of more than `max_length` tokens.

    max_length is 0 if long_sequences is `full`. specials: those of the model's family. Raises
    ConfigError for an unknown long_sequences or a max_length out of range. In the methods, an array
    `tokens` holds the token counts of n sequences, (n,) int64, without special tokens, and
    token_budget is the most tokens of a batch.
    """

    long_sequences: LongSequences
    max_length: int
    specials: Specials = Specials()

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole("max_length", self.max_length, 0 if self.long_sequences == "full" else 1)

    @property
    def _window_tokens(self) -> int:
        return self.max_length + self.specials.total

    def is_long(self, tokens: Int64s) -> NDArray[np.bool_]:
        """Return whether each sequence is over max_length, (n,) bool; with `full`, none is."""
        return (tokens > self.max_length) & (self.long_sequences != "full")

    def kept(self, tokens: Int64s) -> Int64s:
        """Return how many tokens of each sequence get a row, (n,)."""
        return np.minimum(tokens, self.max_length) if self.long_sequences == "truncate" else tokens

    def windows(self, tokens: Int64s) -> Int64s:
        """Return how many windows each sequence has, (n,); 1 if the sequence is not cut."""
        if self.long_sequences != "window":
            return np.ones(len(tokens), np.int64)
        over = np.maximum(tokens - self.max_length, 0)
        return 1 - (-over // ((self.max_length + 1) // 2))

    def model_tokens(self, tokens: Int64s) -> Int64s:
        """Return how many tokens the model reads for each sequence, special ones included, (n,)."""
        windows = self.windows(tokens)
        whole = self.kept(tokens) + self.specials.total
        return np.where(windows > 1, windows * self._window_tokens, whole)

    def longest_read(self, tokens: Int64s) -> int:
        """Return how many tokens the model reads at once at the most, special ones included."""
        most = int(self.kept(tokens).max(initial=0))
        if self.long_sequences == "window":
            most = min(most, self.max_length)
        return most + self.specials.total

    def costs(self, tokens: Int64s) -> NDArray[np.float64]:
        """Return how long each sequence takes to compute, (n,): 1 for a token of a short sequence.

        Attention's share grows with the length of a window.
        """
        read = self.model_tokens(tokens)
        return read * (1 + read / self.windows(tokens) / QUADRATIC_TOKENS)

    def windows_a_pass(self, token_budget: int) -> int:
        """Return how many windows of one sequence fit into a batch; 1 even if none fits."""
        return max(1, token_budget // self._window_tokens)

    def passes(self, tokens: Int64s, token_budget: int) -> Int64s:
        """Return how many batches each sequence needs for its windows, (n,)."""
        return -(-self.windows(tokens) // self.windows_a_pass(token_budget))

    def last_pass(self, tokens: Int64s, token_budget: int) -> Int64s:
        """Return how many tokens each sequence's last batch holds, special ones included, (n,)."""
        earlier = (self.passes(tokens, token_budget) - 1) * self.windows_a_pass(token_budget)
        return self.model_tokens(tokens) - earlier * self._window_tokens

    def cut(self, tokens: int) -> list[Window]:
        """Return the windows of a sequence of so many tokens, in order; they keep no row twice."""
        length, count = (int(of(np.array([tokens]))[0]) for of in (self.kept, self.windows))
        if count == 1:
            return [Window(0, length, 0, length)]
        step = (self.max_length + 1) // 2
        starts = [min(i * step, length - self.max_length) for i in range(count)]
        # A token here is as far from the end of one window as from the start of the next window.
        turns = [(a + self.max_length + b + 1) // 2 for a, b in pairwise(starts)]
        return [
            Window(start, start + self.max_length, *kept)
            for start, kept in zip(starts, pairwise([0, *turns, length]), strict=True)
        ]

    def flags(self, tokens: Int64s) -> NDArray[np.uint8]:
        """Return the flag of each sequence's row: WINDOWED, TRUNCATED or 0, (n,) uint8."""
        flag = {"window": WINDOWED, "truncate": TRUNCATED}.get(self.long_sequences, 0)
        return np.where(self.is_long(tokens), flag, 0).astype(np.uint8)

    def refuse(
        self, tokens: Int64s, unit: str, describe: Callable[[Int64s], list[str]] | None = None
    ) -> None:
        """Raise ConfigError if long_sequences is `error` and a sequence has over max_length tokens.

        unit: "residues" or "tokens", for the message. describe: takes places in `tokens`, and
        returns the names of the sequences there; if it is None, the message has no names.
        """
        long = np.flatnonzero(self.is_long(tokens))
        if not len(long) or self.long_sequences != "error":
            return
        names = f"; the first are {', '.join(describe(long[:3]))}" if describe else ""
        raise ConfigError(
            f"{len(long):,} of {len(tokens):,} sequences are longer than {self.max_length:,} "
            f"{unit} (the longest has {int(tokens.max()):,}){names}; to embed them, set "
            "`embedding: {long_sequences: window}` or `truncate` (after --config: "
            "'embedding={long_sequences: window}') or a larger `embedding: {max_length: ...}`; "
            "to leave them out, remove them from the FASTA files"
        )


def resolve_policy(
    asked: AskedLongSequences, max_length: Literal["auto"] | int, model: PreparedModel
) -> LengthPolicy:
    """Return the policy for a model, with every `auto` resolved.

    asked: long_sequences, where `auto` is `full` for a model that reads any length, else `window`.
    max_length: `auto` is the model's own. Raises ConfigError for a max_length out of range, and for
    `full` if the model has no positions for sequences of any length.
    """
    facts = model.facts
    if asked == "auto":
        asked = "full" if facts.reads_whole else "window"
    if asked == "full" and facts.positions_end:
        raise ConfigError(
            f"long_sequences is full, but {model.name} has no positions after "
            f"{model.max_length:,} residues; set `embedding: {{long_sequences: window}}` or "
            "`truncate`"
        )
    limit = 0 if asked == "full" else model.longest(max_length)
    return LengthPolicy(long_sequences=asked, max_length=limit, specials=facts.specials)
