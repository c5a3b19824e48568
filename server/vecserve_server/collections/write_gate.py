"""Where the writers of a collection wait while its generations change places.

Owns the wait, and the count of writes under way. Must not know what is written. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

LEAST_DELAY_S, MAX_DELAY_S = 0.005, 1.0


class WriteGate:
    """Open unless somebody holds the writers back."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open = asyncio.Event()
        self._open.set()
        self._holders = 0
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._delay_s = 0.0

    async def passed(self) -> None:
        """Wait until writes may go on; at once, without letting others run, where they may."""
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        while not self._open.is_set():
            await self._open.wait()

    def track(self, write: Future[Any]) -> None:
        """Count a write as under way until it is done."""
        self._under_way += 1
        self._idle.clear()
        write.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._ended))

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold newcomers back; enters once the writes under way are done."""
        self._holders += 1
        self._open.clear()
        try:
            await self._idle.wait()
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._open.set()

    def slow_down(self) -> None:
        """Delay each write, by twice as much as before, so that a copy can catch up."""
        self._delay_s = min(MAX_DELAY_S, max(LEAST_DELAY_S, 2 * self._delay_s))

    def delay_no_more(self) -> None:
        """Let writes pass as fast as they come."""
        self._delay_s = 0.0

    def _ended(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()
