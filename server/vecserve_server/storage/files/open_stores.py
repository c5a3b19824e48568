"""Which files of rows are open: so many at most, the one that was unused for longest gives way.

Owns the bound and the order of use. Must not know SQLite.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol


class Store(Protocol):
    """What can be closed while nobody uses it."""

    def park(self) -> bool:
        """Close the files and `forget` the store, unless it is in use. Never waits."""
        ...


class OpenStores:
    """The stores that are open. Any thread.

    Stores in use are never closed: where all are, there may be one more for each thread.
    """

    def __init__(self, limit: int) -> None:
        """Keep `limit` stores open at most."""
        self.limit = limit
        self.opened = 0
        """How often a store was opened."""
        self._lock = threading.Lock()
        # The longest unused first.
        self._open: OrderedDict[Store, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def use(self, store: Store) -> None:
        """Note that an open store is used now."""
        with self._lock:
            if store in self._open:
                self._open.move_to_end(store)

    def make_room(self, store: Store) -> None:
        """Count a store that is about to be opened, and close others that are too many."""
        with self._lock:
            self._open[store] = None
            self._open.move_to_end(store)
            self.opened += 1
            others = list(self._open)[:-1] if len(self._open) > self.limit else []
        for other in others:
            if len(self._open) <= self.limit:
                return
            other.park()

    def forget(self, store: Store) -> None:
        """Count a store no longer: it is closed."""
        with self._lock:
            self._open.pop(store, None)
