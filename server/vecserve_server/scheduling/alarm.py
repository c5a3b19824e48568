"""The timer of a batcher: when its policy must be asked again although nothing happens.

Owns one timer of the event loop. Must not know policies or batches. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Ring once at the earliest time that was set; ringing early does no harm."""

    def __init__(self, *, ring: Callable[[], None], clock_ns: Callable[[], int]) -> None:
        self._ring = ring
        self._clock_ns = clock_ns
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def set(self, wake_ns: int | None) -> None:
        """Ring at `wake_ns` at the latest; None asks for nothing."""
        if wake_ns is None:
            return
        wake_s = self._loop.time() + max(0, wake_ns - self._clock_ns()) / 1e9
        if self._timer is not None:
            if self._timer.when() <= wake_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(wake_s, self._fire)

    def cancel(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._ring()
