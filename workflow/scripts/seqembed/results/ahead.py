"""Work that goes on in a thread beside the caller's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in the same order, each taken while the caller works on the one before it.

    Raises what taking one raises, in its turn.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, "ahead") as beside:
        coming = beside.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = beside.submit(next, source, end)
            yield cast(Item, item)
