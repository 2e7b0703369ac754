"""Sizes and times in words."""

from __future__ import annotations

import pytest

from seqembed.machine.words import format_bytes, format_seconds, format_span


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
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (136, "2 min 16 s"),
        (3599.4, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86_400 * 50, "1,200 h 0 min"),
    ],
)
def test_times_that_were_measured_are_exact(seconds, words):
    assert format_span(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
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
