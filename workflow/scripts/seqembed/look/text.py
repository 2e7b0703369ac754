"""Lines for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

COLUMNS = 80
# What the bars of a distribution are made of, from few to many; and where these cannot be written.
BLOCKS, PLAIN_BLOCKS = "▁▂▃▅▇", ".:+*#"
BARS = 32
LABEL = 15


def draw_bars(lengths: NDArray[np.int64], blocks: str) -> str:
    """Return the distribution of n lengths, n > 0, as one line of bars between two lengths.

    lengths: (n,). Each bar stands for lengths up to the same factor longer; a blank is no sequence.
    blocks: characters for few to many sequences.
    """
    low, high = int(lengths.min()), int(lengths.max())
    if low == high:
        return f"all {low:,}"
    edges = np.geomspace(max(low, 1), high + 1, min(BARS, high - low + 1) + 1)
    counts, _ = np.histogram(np.maximum(lengths, 1), edges)
    levels = np.ceil(len(blocks) * counts / counts.max()).astype(int)
    bars = "".join(blocks[level - 1] if level else " " for level in levels)
    return f"{low:,} {bars} {high:,}"


def label(name: str, text: str) -> Iterator[str]:
    """Yield a line with a label before it, folded to COLUMNS."""
    indent = " " * (LABEL + 4)
    lines = textwrap.wrap(text, COLUMNS - len(indent), break_on_hyphens=False) or [""]
    for place, line in enumerate(lines):
        yield f"{f'  {name:{LABEL}}  ' if place == 0 else indent}{line}"


def fold(text: str, indent: str = "") -> list[str]:
    """Return a text folded to COLUMNS; indent: before all lines but the first."""
    return textwrap.wrap(text, COLUMNS, subsequent_indent=indent, break_on_hyphens=False)


def lay_table(rows: Sequence[Sequence[str]], indent: str = "  ") -> Iterator[str]:
    """Yield the lines of a table, all columns to the right; rows: the first is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        yield indent + "   ".join(cells)


def choose_blocks(encoding: str | None) -> str:
    """Return the characters for bars that a stream of this encoding can write."""
    try:
        BLOCKS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN_BLOCKS
    return BLOCKS
