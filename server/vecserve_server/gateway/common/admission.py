"""Who may come in.

Owns the bounds on accepted, unanswered items and their bytes, and the closing of the doors when
the server drains. First in every call that asks for work, and never waits; questions after the
server's health are answered whatever is pending. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from vecserve_server.errors import Draining, Overloaded
from vecserve_server.observability.metrics import Metrics

RETRY_AFTER_MS = 200
SMALL_BYTES = 64 * 1024
RESERVE = 8
"""An eighth of the pending bytes is for small calls, whatever large ones are under way."""


class Admission:
    """Counters of pending items and bytes with bounds, and a door."""

    def __init__(self, *, max_pending_items: int, max_pending_bytes: int, metrics: Metrics) -> None:
        self._max_pending_items = max_pending_items
        self._max_pending_bytes = max_pending_bytes
        self._pending_bytes = 0
        self._metrics = metrics
        self._pending_items = 0
        self._refused_while_draining = 0
        self._open = True
        self._empty = asyncio.Event()
        self._empty.set()
        metrics.pending_items.set_function(lambda: self._pending_items)

    @property
    def pending_items(self) -> int:
        """Items of calls that are not answered yet."""
        return self._pending_items

    @contextmanager
    def admit(self, items: int, *, size_bytes: int = 0) -> Iterator[None]:
        """Count the items in while the call runs. Raises Draining or Overloaded at once."""
        self._refuse(items, size_bytes)
        self._pending_items += items
        self._pending_bytes += size_bytes
        self._empty.clear()
        try:
            yield
        finally:
            self._pending_items -= items
            self._pending_bytes -= size_bytes
            if not self._pending_items:
                self._empty.set()

    @contextmanager
    def also_holding(self, size_bytes: int) -> Iterator[None]:
        """Count bytes that a call which came in has beside its message, or beyond its end."""
        self._pending_bytes += size_bytes
        try:
            yield
        finally:
            self._pending_bytes -= size_bytes

    def close(self) -> None:
        """Refuse all new calls from now on."""
        self._open = False

    async def drained(self, timeout_s: float) -> bool:
        """Wait until every accepted call is answered; tell whether it came to that in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def quiet(self, *, for_s: float, timeout_s: float) -> None:
        """Wait until nobody has knocked for a while, `timeout_s` at most; the door is closed."""
        for _ in range(max(1, int(timeout_s / for_s))):
            before = self._refused_while_draining
            await asyncio.sleep(for_s)
            if self._refused_while_draining == before:
                return

    def _refuse(self, items: int, size_bytes: int) -> None:
        if not self._open:
            self._refused_while_draining += 1
            self._metrics.rejected.labels(reason="draining").inc()
            raise Draining("the server is shutting down")
        room_bytes = self._max_pending_bytes
        if self._pending_bytes and size_bytes > SMALL_BYTES:
            room_bytes -= room_bytes // RESERVE
        for pending, more, room, limit, unit in (
            (self._pending_items, items, self._max_pending_items, self._max_pending_items, "items"),
            (self._pending_bytes, size_bytes, room_bytes, self._max_pending_bytes, "bytes"),
        ):
            if pending + more > room:
                self._metrics.rejected.labels(reason="overloaded").inc()
                raise Overloaded(
                    f"{pending} {unit} are pending and {more} more exceed "
                    f"limits.max_pending_{unit} = {limit}",
                    retry_after_ms=RETRY_AFTER_MS,
                )
