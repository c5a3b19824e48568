"""Where the writers of a collection wait while its generations change places.

Owns the wait, and the count of writes under way. Must not know what is written. Loop only.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any


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
        self.delay_s = 0.0
        """How long each write is held back, so that a copy can catch up."""

    async def passed(self) -> None:
        """Wait until writes may go on; at once, without letting others run, where they may."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        while not self._open.is_set():
            await self._open.wait()

    def track(self, write: Future[Any]) -> None:
        """Count a write as under way until it is done."""
        self._under_way += 1
        self._idle.clear()
        write.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._ended))

    async def close(self) -> None:
        """Hold newcomers back, and wait until the writes under way are done."""
        self._holders += 1
        self._open.clear()
        await self._idle.wait()

    def open(self) -> None:
        """Let the writers go on, once as often as they were held back."""
        self._holders -= 1
        if not self._holders:
            self._open.set()

    def _ended(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()
