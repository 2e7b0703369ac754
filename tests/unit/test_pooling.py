"""Pooling: which rows count, and windows put together."""

from __future__ import annotations

import numpy as np
import pytest

from seqembed.inference.batches import PackedWindow
from seqembed.inference.pooling import WindowPool, pooled_span
from seqembed.models.vocabularies import Specials


@pytest.mark.parametrize(
    ("pooling", "pools_specials", "first", "last", "span"),
    [
        ("mean", False, True, True, (5, 9)),
        ("max", False, True, True, (5, 9)),
        ("mean", True, True, True, (4, 10)),
        ("max", True, True, False, (4, 9)),
        ("mean", True, False, True, (5, 10)),
        ("mean", True, False, False, (5, 9)),
        ("cls", False, True, True, (4, 5)),
        ("cls", True, True, False, (4, 5)),
    ],
)
def test_the_rows_that_count(pooling, pools_specials, first, last, span):
    assert (
        pooled_span(PackedWindow(0, 5, 9, first, last), pooling, Specials(), pools_specials) == span
    )


def windows_of(*parts: tuple[int, bool, bool]) -> list[PackedWindow]:
    return [PackedWindow(position, 1, 2, first, last) for position, first, last in parts]


def test_windows_of_a_sequence_may_come_in_several_batches():
    windows = WindowPool("mean")
    one = np.float32([[1, 10], [4, 40]])
    found = windows.add(windows_of((0, True, True), (1, True, False)), [(0, 5), (0, 2)], one)
    assert [part.tolist() for part in found] == [[0], [[1, 10]]]
    found = windows.add(windows_of((1, False, False)), [(0, 1)], np.float32([[1, 1]]))
    assert found[0].tolist() == [] and found[1].shape == (0, 2)
    last = np.float32([[7, 7], [2, 3]])
    found = windows.add(windows_of((1, False, True), (2, True, True)), [(0, 3), (0, 1)], last)
    assert found[0].tolist() == [1, 2]
    np.testing.assert_allclose(found[1], [[(8 + 1 + 21) / 6, (80 + 1 + 21) / 6], [2, 3]])


@pytest.mark.parametrize(("pooling", "row"), [("max", [4, 7]), ("cls", [4, 0])])
def test_the_largest_and_the_first_of_windows(pooling, row):
    rows = np.float32([[4, 0], [1, 7], [3, 3]])
    parts = windows_of((0, True, False), (0, False, False), (0, False, True))
    positions, found = WindowPool(pooling).add(parts, [(0, 1)] * 3, rows)
    assert (positions.tolist(), found.tolist()) == ([0], [row])


def test_the_mean_of_one_window_keeps_its_bits():
    row = np.random.default_rng(3).standard_normal((1, 64)).astype(np.float32)
    _, found = WindowPool("mean").add(windows_of((0, True, True)), [(0, 999_983)], row)
    assert found.tobytes() == row.tobytes()
