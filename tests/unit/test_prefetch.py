"""Items taken in a thread while the last one is worked on."""

from __future__ import annotations

from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqembed.results.writer import prefetch


@given(st.lists(st.integers() | st.none(), max_size=9))
def test_all_items_come_in_their_order(items):
    assert list(prefetch(items)) == items


def test_the_next_item_is_taken_meanwhile_and_its_error_comes_in_its_turn():
    taken = Event()

    def items():
        yield "first"
        taken.set()
        raise ValueError("the second cannot be had")

    coming = prefetch(items())
    assert next(coming) == "first"
    assert taken.wait(20)
    with pytest.raises(ValueError, match="the second"):
        next(coming)


def test_a_reader_that_stops_has_taken_one_more_item_at_most():
    taken = []

    def items():
        for number in range(9):
            taken.append(number)
            yield number

    coming = prefetch(items())
    next(coming)
    coming.close()
    assert taken in ([0], [0, 1])
