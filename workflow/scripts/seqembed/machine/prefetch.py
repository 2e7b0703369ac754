"""Compute the next items of an iteration in a thread, while the caller uses the last one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

Item = TypeVar("Item")


def prefetch(items: Iterable[Item], ahead: int = 1) -> Iterator[Item]:
    """Yield the items in order; a thread computes up to `ahead` of them before they are asked for.

    An error in computing an item is raised when the caller asks for that item. If the caller ends
    the iteration early, the thread ends with the item that it is computing.
    """
    source, end = iter(items), object()
    thread = ThreadPoolExecutor(1, "prefetch")
    try:
        coming = deque(thread.submit(next, source, end) for _ in range(ahead))
        while (item := coming.popleft().result()) is not end:
            coming.append(thread.submit(next, source, end))
            yield cast(Item, item)
    finally:
        thread.shutdown(cancel_futures=True)
