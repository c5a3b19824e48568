"""A time after which what runs on this thread is ended.

Owns the timer. Must not know what runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol


class Stop(Protocol):
    """Something that may want a run to end early."""

    def on_stop(self, end: Callable[[], None]) -> None:
        """Take what ends the run that begins now; it may be called from any thread, or at once."""
        ...


class TimeLimit:
    """Ends what runs inside the block once the time is over. It is a `Stop`."""

    def __init__(self, limit_s: float) -> None:
        self._lock = threading.Lock()
        self._is_over = False
        self._end: Callable[[], None] | None = None
        self._timer = threading.Timer(limit_s, self._expire)
        self._timer.daemon = True

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self._is_over

    def on_stop(self, end: Callable[[], None]) -> None:
        """See `Stop`."""
        with self._lock:
            self._end = end
            if self._is_over:
                end()

    def __enter__(self) -> TimeLimit:
        """Start the clock."""
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the clock."""
        self._timer.cancel()

    def _expire(self) -> None:
        with self._lock:
            self._is_over = True
            if self._end is not None:
                self._end()
