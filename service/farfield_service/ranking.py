"""Items by key, least first: a heap whose items can move and leave."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class Ranking(Generic[Item]):
    """Each item has one place; equal keys keep the order in which they came.

    Entries of items that moved or left stay in the heap until they come up or are the greater part of it: each
    operation is O(log n) on average.
    """

    def __init__(self) -> None:
        self._entries: dict[Item, tuple[Any, int, Item]] = {}
        self._heap: list[tuple[Any, int, Item]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Item]:
        """Items in no order."""
        return iter(self._entries)

    def __contains__(self, item: Item) -> bool:
        return item in self._entries

    def place(self, item: Item, key: Any) -> None:
        """Add an item, or move it."""
        known = self._entries.get(item)
        if known is not None and known[0] == key:
            return
        self._entries[item] = entry = (key, next(self._numbers), item)
        if len(self._heap) > 2 * len(self._entries) + 16:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, entry)

    def remove(self, item: Item) -> None:
        """Take an item out, if it is there."""
        self._entries.pop(item, None)

    def first(self) -> Item | None:
        """The item with the least key, which stays."""
        heap, entries = self._heap, self._entries
        while heap and entries.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
        return heap[0][2] if heap else None
