"""Items taken in a thread while the last one is worked on."""

from __future__ import annotations

import threading
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqembed.machine.prefetch import prefetch


@given(st.lists(st.integers() | st.none(), max_size=9), st.integers(1, 12))
def test_all_items_come_in_their_order(items, ahead):
    assert list(prefetch(items, ahead)) == items


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


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_items_are_computed_than_asked_for(ahead):
    taken, coming_ones = [], [Event() for _ in range(9)]

    def items():
        for number, event in enumerate(coming_ones):
            taken.append(number)
            event.set()
            yield number

    coming = prefetch(items(), ahead)
    assert next(coming) == 0
    assert coming_ones[ahead].wait(20)
    coming.close()
    assert taken == list(range(ahead + 1))


def test_the_thread_ends_with_the_iteration_and_computes_no_further_item():
    begun, go, taken = Event(), Event(), []

    def items():
        yield 0
        begun.set()
        go.wait(20)
        for number in range(1, 9):
            taken.append(number)
            yield number

    coming = prefetch(items(), 4)
    next(coming)
    assert begun.wait(20)
    threading.Timer(0.1, go.set).start()
    coming.close()
    assert taken == [1]
    assert not [thread for thread in threading.enumerate() if "prefetch" in thread.name]
