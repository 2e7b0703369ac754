"""What the plan's page is made of: sizes, times, bars, and lines that fit a terminal."""

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
    format_bytes,
    format_seconds,
    label,
    lay_table,
)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (99_940, "99.9 kB"),
        (999_600, "1.00 MB"),
        (812_345_678, "812 MB"),
        (2.5e15, "2,500 TB"),
    ],
)
def test_sizes_have_three_digits(size, words):
    assert format_bytes(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (5_300, "88 min"),
        (5_400, "1 h 30 min"),
        (7_199, "2 h"),
        (100_000, "27 h 50 min"),
        (200_000, "2 days"),
    ],
)
def test_times_are_in_steps_that_a_prediction_deserves(seconds, words):
    assert format_seconds(seconds) == words


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
