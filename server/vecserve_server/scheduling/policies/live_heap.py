"""An order among numbered things of which some go away unseen.

Owns the heap and its bounds. Must not know what the numbers stand for.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from typing import TypeAlias

Key: TypeAlias = tuple[int, ...]
"""What to sort by; the last item is the number."""

_SLACK = 64


class LiveHeap:
    """The least key first, of those whose number is in `live`.

    A number that leaves `live` never comes back. Its keys are forgotten sooner or later: the heap
    stays within a few times the size of `live`, as a number has at most two keys.
    """

    def __init__(self, live: Collection[int]) -> None:
        self._live = live
        self._keys: list[Key] = []

    def push(self, key: Key) -> None:
        """Add a key."""
        heapq.heappush(self._keys, key)
        if len(self._keys) > 4 * len(self._live) + _SLACK:
            self._keys = [key for key in self._keys if key[-1] in self._live]
            heapq.heapify(self._keys)

    def peek(self) -> Key | None:
        """Return the least live key."""
        while self._keys and self._keys[0][-1] not in self._live:
            heapq.heappop(self._keys)
        return self._keys[0] if self._keys else None

    def pop(self) -> Key | None:
        """Remove and return the least live key."""
        while self._keys:
            key = heapq.heappop(self._keys)
            if key[-1] in self._live:
                return key
        return None

    def pop_until(self, last: int) -> Key | None:
        """Remove and return the least live key if its first item is not above `last`."""
        key = self.peek()
        return self.pop() if key is not None and key[0] <= last else None
