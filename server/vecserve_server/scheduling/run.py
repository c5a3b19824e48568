"""A run: the work that an instance does at once, and what ends it early.

Owns the way in which a run is stopped. Must not know queues, nor what the work is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

W = TypeVar("W")


class RunStop:
    """Ends one run early, whether it has begun or not. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._end: Callable[[], None] | None = None

    @property
    def is_set(self) -> bool:
        """Whether the run is to end."""
        return self._is_set

    def on_stop(self, end: Callable[[], None]) -> None:
        """Say what ends the run; it is called at once where the run is to end already."""
        with self._lock:
            self._end = end
            if self._is_set:
                end()

    def stop(self) -> None:
        """End the run, as soon as the engine looks."""
        with self._lock:
            self._is_set = True
            if self._end is not None:
                self._end()


class Run(Generic[W]):
    """Work that runs together."""

    __slots__ = ("stop", "works")

    def __init__(self, works: Sequence[W]) -> None:
        self.works = works
        self.stop = RunStop()
