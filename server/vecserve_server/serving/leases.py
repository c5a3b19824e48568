"""Who is using a loaded version.

Owns the count and the wait for its end. Must not know what is used. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STEP_S = 1.0


class Leases:
    """Users of one thing that is to be closed when the last of them has left."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be a user for the length of the block."""
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nobody is left; tell whether it came to that in time.

        A time in which the whole process stood still hardly counts: nobody could leave.
        """
        left_s = timeout_s
        while self._count and left_s > 0:
            step_s = min(left_s, STEP_S)
            left_s -= step_s
            with suppress(TimeoutError):
                async with asyncio.timeout(step_s):
                    await self._idle.wait()
        return not self._count
