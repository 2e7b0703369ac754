"""What the plan's page is made of: bars, and lines that fit a terminal."""

from __future__ import annotations

import numpy as np
import pytest

from seqembed.look.text import (
    BLOCKS,
    COLUMNS,
    PLAIN_BLOCKS,
    choose_blocks,
    draw_bars,
    fold,
    label,
    lay_table,
)


def test_bars_stand_between_the_shortest_and_the_longest():
    lengths = np.array([10] * 8 + [100] * 4 + [1000], np.int64)
    text = draw_bars(lengths, BLOCKS)
    assert (text.split()[0], text.split()[-1]) == ("10", "1,000")
    bars = text[3:-6]
    assert (bars[0], bars[-1], bars.strip(" ")) == ("▇", "▁", bars)
    assert [bar for bar in bars if bar != " "] == ["▇", "▃", "▁"]


@pytest.mark.parametrize("lengths", [[5, 6], [1, 2, 3], [0, 7], [3, 1_000_000]])
def test_every_length_has_a_bar(lengths):
    text = draw_bars(np.array(lengths, np.int64), PLAIN_BLOCKS)
    assert text.count("#") == len(lengths)
    assert len(text) < 50


def test_equal_lengths_have_no_bars():
    assert draw_bars(np.full(3, 1_200), BLOCKS) == "all 1,200"


@pytest.mark.parametrize(
    ("encoding", "blocks"),
    [("utf-8", BLOCKS), ("ascii", PLAIN_BLOCKS), ("latin-1", PLAIN_BLOCKS), (None, PLAIN_BLOCKS)],
)
def test_bars_are_ascii_where_blocks_cannot_be_written(encoding, blocks):
    assert choose_blocks(encoding) == blocks


def test_no_line_is_wider_than_a_terminal():
    text = "x" * 200 + " and " * 50
    lines = [*label("sequences", text), *fold(text, "  ")]
    assert max(map(len, lines)) <= COLUMNS
    assert lines[0].startswith("  sequences")


def test_a_tables_columns_are_flush_right():
    rows = [("shard", "tokens"), ("0", "12,345"), ("10", "1")]
    assert list(lay_table(rows)) == ["  shard   tokens", "      0   12,345", "     10        1"]
