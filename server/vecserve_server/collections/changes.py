"""Changes that come to their end though their caller goes away.

Owns the tasks. Must not know what is changed. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Changes:
    """The changes under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, change: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a change that nobody need wait for."""
        task = asyncio.create_task(change, name="change-collections")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def held(self, change: Coroutine[Any, Any, T]) -> T:
        """Make a change; a caller that goes away does not leave it half done."""
        return await asyncio.shield(self.begin(change))

    async def seen_through(self, change: Coroutine[Any, Any, T]) -> T:
        """Make a change; a caller that is cancelled waits for its end."""
        task = self.begin(change)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def settled(self, timeout_s: float) -> None:
        """Wait until what is under way has ended, not longer than that."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def ended(self) -> None:
        """Wait until nothing is under way any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any more
